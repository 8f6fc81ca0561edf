"""Buckets: nearest by aspect, covered, cut in the middle."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd1b.base.errors import DataError
from ssd1b.base.units import ASPECTS
from ssd1b.data.buckets import TABLES, fit, named, sized, table

SIDES = st.integers(1, 9000)


def test_the_nine_sizes_are_those_of_ssd_1b() -> None:
    assert table("ssd-1b") == tuple(ASPECTS.values())
    assert table("ssd-1b", 128)[0] == (128, 128) and (192, 80) in table("ssd-1b", 128)


def test_the_full_table_is_of_sdxl_and_mirrored() -> None:
    sizes = table("sdxl")
    assert len(sizes) == len(set(sizes)) == 41 and set(table("ssd-1b")) <= set(sizes)
    assert {(height, width) for width, height in sizes} == set(sizes)
    assert all(width % 64 == 0 and height % 64 == 0 for width, height in sizes)
    assert all(0.9 <= width * height / 1024**2 <= 1.01 for width, height in sizes)


@settings(deadline=None)
@given(SIDES, SIDES, st.sampled_from(sorted(TABLES)))
def test_a_picture_covers_its_bucket_and_no_other_is_nearer(width, height, name) -> None:
    sizes = table(name)
    how = fit((width, height), sizes)
    apart = [abs(math.log(w / h * height / width)) for w, h in sizes]
    assert math.isclose(min(apart), apart[sizes.index(how.bucket)])
    for full, side, edge in zip(how.resized, how.bucket, (how.left, how.top), strict=True):
        assert full >= side and 0 <= edge <= full - side and abs(full - side - 2 * edge) <= 1
    assert min(full - side for full, side in zip(how.resized, how.bucket, strict=True)) <= 1


@settings(deadline=None)
@given(st.sampled_from(table("sdxl")))
def test_a_picture_of_a_buckets_own_size_is_left_alone(size) -> None:
    how = fit(size, table("sdxl"))
    assert (how.bucket, how.resized, how.left, how.top, how.lost) == (size, size, 0, 0, 0.0)
    assert sized(named(size)) == size


def test_unknown_tables_and_odd_sides_are_refused() -> None:
    with pytest.raises(DataError, match="Did you mean 'sdxl'"):
        table("sdxll")
    with pytest.raises(DataError, match="no multiples of 8"):
        table("ssd-1b", 100)
