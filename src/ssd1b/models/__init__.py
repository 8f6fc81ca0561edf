"""Diffusion maths and the frozen parts that distillation and generation share."""
