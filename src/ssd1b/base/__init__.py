"""Floor 0: errors, files, seeds and units. Standard library only; knows no other room."""
