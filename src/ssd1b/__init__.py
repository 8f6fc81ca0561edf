"""ssd1b: carve, distil, run and compare smaller Stable Diffusion XL models."""

__version__ = "0.1.0"
