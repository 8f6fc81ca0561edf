"""Floor 3: models on disk, read and written: diffusers folders, single files, plans in YAML."""
