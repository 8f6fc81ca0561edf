"""Floor 5: how well a model does what it is told, how fast, and the page that shows it."""
