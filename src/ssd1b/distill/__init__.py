"""Layer-level distillation: recipes, taps, losses, and the trainer that can be stopped at any step."""
