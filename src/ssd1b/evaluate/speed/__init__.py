"""How fast models run on this machine: true sizes, engines side by side, part by part."""
