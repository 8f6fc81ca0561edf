"""Numbers in one byte: the paper's levels, errors within their spacing, and zero for zero alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssd1b.distill import eight_bit

CPU = torch.device("cpu")


def test_the_levels_are_256_over_seven_decades() -> None:
    for levels, lowest in ((eight_bit.signed(CPU), -0.992969), (eight_bit.positive(CPU), 0.0)):
        assert len(levels.value_L) == len(levels.value_L.unique()) == 256
        assert levels.value_L[0] == pytest.approx(lowest, abs=1e-6) and levels.value_L[-1] == 1.0
        assert (levels.value_L.diff() > 0).all()
        above = levels.value_L[levels.value_L > 0]
        assert 1e-7 < above[0] < 1e-6, "the smallest of them is seven decades below the largest"


@given(st.integers(0, 2**31), st.floats(1e-20, 1e20), st.booleans())
def test_a_number_comes_back_within_the_spacing_of_its_levels(seed: int, size: float, both: bool) -> None:
    levels = eight_bit.signed(CPU) if both else eight_bit.positive(CPU)
    values = torch.randn(4 * eight_bit.BLOCK, generator=torch.Generator().manual_seed(seed)) * size
    values = values if both else values.abs()
    back = levels.unpack(*levels.pack(values))
    scale = values.view(-1, eight_bit.BLOCK).abs().amax(1).repeat_interleave(eight_bit.BLOCK)
    share, found = values / scale, back / scale
    nearest = levels.value_L[(levels.value_L[None] - share[:, None]).abs().argmin(1)]
    assert ((found - share).abs() <= (nearest - share).abs() + share.abs() * 2**-7 + 1e-6).all()


def test_packing_what_was_unpacked_changes_nothing() -> None:
    levels = eight_bit.positive(CPU)
    packed = levels.pack(torch.rand(1024))
    again = levels.pack(levels.unpack(*packed))
    assert torch.equal(packed[0], again[0]) and torch.equal(packed[1], again[1])


def test_only_zero_becomes_zero_among_squares() -> None:
    values = torch.zeros(eight_bit.BLOCK)
    values[:3] = torch.tensor([1.0, 1e-12, 1e-30])
    back = eight_bit.positive(CPU).unpack(*eight_bit.positive(CPU).pack(values))
    assert (back[:3] > 0).all() and not back[3:].any()


def test_an_outlier_spoils_its_own_block_only() -> None:
    values = torch.full((2 * eight_bit.BLOCK,), 1e-4)
    values[0] = 1e6
    back = eight_bit.signed(CPU).unpack(*eight_bit.signed(CPU).pack(values))
    torch.testing.assert_close(back[eight_bit.BLOCK :], values[eight_bit.BLOCK :])
