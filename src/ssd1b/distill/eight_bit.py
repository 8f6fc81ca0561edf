"""Numbers in one byte each: 256 levels over seven decades, scaled block by block.

The dynamic quantisation of "8-bit Optimizers via Block-wise Quantization" (arXiv:2110.02861, section 2).
Knows tensors and levels. Does not know optimizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

BLOCK = 256
"""Numbers that share a scale. One outlier spoils the precision of its own block only."""
_DECADES = 7


@dataclass(frozen=True, slots=True)
class Levels:
    """The 256 values a byte may mean, rising from -1 or 0 to 1, and the byte for every leading 16 bits.

    A float32's upper half (sign, exponent, seven bits of fraction) decides the byte, so that rounding is a
    look-up: at most 2**-8 of a value's size off the nearest level.
    """

    value_L: Tensor
    byte_H: Tensor

    def pack(self, values_N: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes, and each block's largest absolute value; any shape, a multiple of `BLOCK` numbers."""
        values_KB = values_N.reshape(-1, BLOCK)
        scale_K = values_KB.abs().amax(1)
        share_KB = values_KB / scale_K.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
        upper_N = share_KB.view(torch.int32).bitwise_right_shift_(16).bitwise_and_(0xFFFF).flatten()
        return self.byte_H.gather(0, upper_N.long()), scale_K

    def unpack(self, bytes_N: Tensor, scale_K: Tensor) -> Tensor:
        """The float32 numbers that bytes and scales stand for, flat."""
        values_N = self.value_L.gather(0, bytes_N.long())
        return values_N.view(-1, BLOCK).mul_(scale_K[:, None]).flatten()


@cache
def signed(device: torch.device) -> Levels:
    """Levels of both signs, for the mean of gradients."""
    steps = _steps(1)
    values = sorted([*(-value for value in steps), 0.0, *steps, 1.0])
    borders = [(low + high) / 2 for low, high in pairwise(values)]
    return _levels(values, borders, device)


@cache
def positive(device: torch.device) -> Levels:
    """Levels above zero, for the mean of squares; only zero itself becomes zero.

    A square that vanished would leave a division by almost nothing.
    """
    values = [0.0, *_steps(2), 1.0]
    borders = [0.0, *((low + high) / 2 for low, high in pairwise(values[1:]))]
    return _levels(values, borders, device)


def _steps(fewest: int) -> list[float]:
    """Middles of evenly cut decades, twice as many in each as in the one below: `fewest` in the lowest."""
    values: list[float] = []
    for decade in range(_DECADES):
        edge = torch.linspace(0.1, 1.0, fewest * 2**decade + 1, dtype=torch.float64)
        values += (10.0 ** (decade - _DECADES + 1) * (edge[:-1] + edge[1:]) / 2).tolist()
    return values


def _levels(values: Sequence[float], borders: Sequence[float], device: torch.device) -> Levels:
    """The look-up table: each upper half stands for the middle of the numbers that begin with it."""
    assert len(values) == 256, "a byte has 256 values"
    upper_H = torch.arange(2**16, dtype=torch.int64)
    middle_H = (upper_H << 16 | 0x8000).to(torch.int32).view(torch.float32).nan_to_num()
    middle_H[0] = 0.0  # zero, and what is too small to be a normal number
    byte_H = torch.bucketize(middle_H, torch.tensor(borders, dtype=torch.float32)).to(torch.uint8)
    return Levels(torch.tensor(values, dtype=torch.float32, device=device), byte_H.to(device))
