"""Moving the weights: flat gradients, AdamW, the learning rate's course, averaged weights.

Knows tensors and numbers. Does not know losses, recipes, files or processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class FlatGradients:
    """All gradients in one tensor, so that averaging, norm and clipping are one operation each.

    Each parameter's `.grad` is a view into it; the backward pass adds there.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Lay out room for the parameters' gradients, all zero."""
        like = parameters[0]
        size = sum(parameter.numel() for parameter in parameters)
        self.flat = torch.zeros(size, dtype=torch.float32, device=like.device)
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.grad = self.flat[start:end].view_as(parameter)
            start = end

    def zero(self) -> None:
        """Forget the last step's gradients."""
        self.flat.zero_()

    def norm(self) -> Tensor:
        """Euclidean norm over all gradients."""
        norm: Tensor = torch.linalg.vector_norm(self.flat)
        return norm

    def clip(self, norm: float, limit: float) -> None:
        """Scale the gradients down to `limit` if their `norm` is larger; a limit of 0 does nothing."""
        if 0.0 < limit < norm:
            self.flat.mul_(limit / norm)


def trainable(model: nn.Module, words: Sequence[str]) -> dict[str, nn.Parameter]:
    """Freeze what has none of the words in its name and return the rest by name; no words: everything."""
    chosen: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not words or any(word in name for word in words))
        if parameter.requires_grad:
            chosen[name] = parameter
    return chosen


def learning_rate_share(step: int, *, steps: int, schedule: str, warmup: int, final: float) -> float:
    """Share of the peak learning rate at a step (from 0): linear warm-up, then constant or cosine."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, steps - warmup)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


class Average:
    """Exponential moving average of a model's trained weights.

    Young averages forget faster, min(decay, (1 + n) / (10 + n)) after n steps, so that the random
    start leaves no trace.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Start from the parameters as they are."""
        self.decay = decay
        self.weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def restart(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Begin again from the parameters as they are now."""
        torch._foreach_copy_(list(self.weights.values()), list(parameters.values()))

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], step: int) -> None:
        """Move towards the parameters after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), list(parameters.values()), 1.0 - decay)
