"""Recipes that ship with the package: YAML, data only."""
