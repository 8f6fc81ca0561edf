"""Floor 1: which layers a UNet keeps, and everything that follows from it. Standard library only."""
