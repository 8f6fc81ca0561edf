"""AdamW with its memory of past gradients in float32, or in one byte per number.

Moves parameters that have a `.grad` and keeps the moments by the parameters' names. Does not know when it
is called, losses or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor, nn

from ssd1b.distill import eight_bit

Parameters = Mapping[str, nn.Parameter]
Moments = dict[str, dict[str, Tensor]]
"""What an optimizer remembers, by group ("exp_avg", ...) and parameter name."""

SMALL = 4096
"""Parameters with fewer numbers keep float32 moments: norms and biases, little memory and much effect."""
_PIECE, _DEVICE_PIECE = 1 << 18, 1 << 24  # numbers moved at once: what a processor's cache holds; on a GPU


@dataclass(frozen=True, slots=True)
class Settings:
    """AdamW's constants (arXiv:1711.05101), except the learning rate, which changes from step to step."""

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    eps: float = 1e-8


class Rule(Protocol):
    """A way to move some parameters by their gradients."""

    def step(self, rate: float) -> None:
        """Move every parameter once."""
        ...

    def moments(self) -> Moments:
        """What has to be saved; the tensors themselves, not copies."""
        ...

    def prepare(self, steps: int) -> None:
        """Be as after `steps` steps, but for the moments: they are there to be filled."""
        ...


class Fused:
    """torch's fused AdamW, moments in float32."""

    def __init__(self, parameters: Parameters, settings: Settings) -> None:
        """Moments are made at the first step."""
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(
            parameters.values(),
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            eps=settings.eps,
            fused=True,
        )

    def step(self, rate: float) -> None:
        """Move every parameter once."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def moments(self) -> Moments:
        """Groups exp_avg and exp_avg_sq; empty before the first step."""
        state = self.optimizer.state
        return {
            group: {name: state[each][group] for name, each in self.parameters.items() if each in state}
            for group in ("exp_avg", "exp_avg_sq")
        }

    def prepare(self, steps: int) -> None:
        """Make moments to be filled, as after `steps` steps."""
        for parameter in self.parameters.values():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(steps), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def packs(count: int) -> bool:
    """Whether `EightBit` keeps the moments of a parameter of so many numbers in one byte each."""
    return count >= SMALL and count % eight_bit.BLOCK == 0


class EightBit:
    """AdamW whose moments take two bytes per parameter in place of eight (arXiv:2110.02861).

    Parameters of fewer than `SMALL` numbers, or whose number is no multiple of a block, keep float32.
    """

    def __init__(self, parameters: Parameters, settings: Settings) -> None:
        """Make room for the moments, all zero."""
        self.parameters, self.settings, self.steps = parameters, settings, 0
        self._moments: Moments = {"exp_avg": {}, "exp_avg_sq": {}}
        self._scales: Moments = {"exp_avg_scale": {}, "exp_avg_sq_scale": {}}
        for group, name in product(self._moments, parameters):
            count, device = parameters[name].numel(), parameters[name].device
            zero_N = torch.zeros(count, device=device)
            if packs(count):
                packed = _LEVELS[group](device).pack(zero_N)
                self._moments[group][name], self._scales[f"{group}_scale"][name] = packed
            else:
                self._moments[group][name] = zero_N

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every parameter once."""
        self.steps += 1
        for name, parameter in self.parameters.items():
            assert parameter.grad is not None, f"{name} has no gradient"
            place_N, gradient_N = parameter.view(-1), parameter.grad.reshape(-1)
            length = _PIECE if parameter.device.type == "cpu" else _DEVICE_PIECE
            for start in range(0, parameter.numel(), length):
                piece = slice(start, min(start + length, parameter.numel()))
                self._move(name, piece, place_N[piece], gradient_N[piece], rate)

    def _move(self, name: str, piece: slice, place_N: Tensor, gradient_N: Tensor, rate: float) -> None:
        (beta1, beta2), settings = self.settings.betas, self.settings
        mean_N, square_N = (self._read(group, name, piece) for group in ("exp_avg", "exp_avg_sq"))
        mean_N.lerp_(gradient_N, 1.0 - beta1)
        square_N.mul_(beta2).addcmul_(gradient_N, gradient_N, value=1.0 - beta2)
        place_N.mul_(1.0 - rate * settings.weight_decay)
        spread_N = square_N.sqrt().div_(sqrt(1.0 - beta2**self.steps)).add_(settings.eps)
        place_N.addcdiv_(mean_N, spread_N, value=-rate / (1.0 - beta1**self.steps))
        self._write("exp_avg", name, piece, mean_N)
        self._write("exp_avg_sq", name, piece, square_N)

    def _read(self, group: str, name: str, piece: slice) -> Tensor:
        kept = self._moments[group][name]
        if kept.dtype != torch.uint8:
            return kept[piece]
        scale_K = self._scales[f"{group}_scale"][name][_blocks(piece)]
        return _LEVELS[group](kept.device).unpack(kept[piece], scale_K)

    def _write(self, group: str, name: str, piece: slice, values_N: Tensor) -> None:
        kept = self._moments[group][name]
        if kept.dtype == torch.uint8:
            scale_K = self._scales[f"{group}_scale"][name][_blocks(piece)]
            kept[piece], scale_K[:] = _LEVELS[group](kept.device).pack(values_N)

    def moments(self) -> Moments:
        """Groups exp_avg and exp_avg_sq (flat; uint8, or float32 where small) and the scales of each."""
        return self._moments | self._scales

    def prepare(self, steps: int) -> None:
        """Count from `steps`; the moments are there."""
        self.steps = steps


_LEVELS = {"exp_avg": eight_bit.signed, "exp_avg_sq": eight_bit.positive}


def _blocks(piece: slice) -> slice:
    return slice(piece.start // eight_bit.BLOCK, piece.stop // eight_bit.BLOCK)


RULES: Mapping[str, type[Fused] | type[EightBit]] = {"adamw": Fused, "adamw8bit": EightBit}
"""The optimizers a recipe may name."""
