"""Pixels, latents and numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd1b.base import units


def test_there_are_nine_sizes_of_about_a_megapixel_each_with_its_name() -> None:
    assert len(units.ASPECTS) == 9
    for name, (width, height) in units.ASPECTS.items():
        across, down = map(int, name.split(":"))
        assert width * down == height * across
        assert 0.9 < width * height / 1024**2 < 1.03
        assert units.latent_side(width) * 8 == width


def test_the_miniature_sizes_are_an_eighth() -> None:
    assert units.MINI_ASPECTS["1:1"] == (128, 128)
    assert units.MINI_ASPECTS["12:5"] == (192, 80)
    assert units.aspects_of(16) == units.MINI_ASPECTS
    assert units.aspects_of(128) == units.ASPECTS


@pytest.mark.parametrize("px", [0, -8, 12])
def test_a_side_that_is_no_multiple_of_eight_has_no_latents(px: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        units.latent_side(px)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (units.human_bytes(999), "999 B"),
        (units.human_bytes(5_134_927_368), "5.13 GB"),
        (units.human_bytes(64_000_000), "64 MB"),
        (units.human_count(0), "0"),
        (units.human_count(2_567_463_684), "2.57 B"),
        (units.human_count(15_043_108), "15.0 M"),
        (units.human_count(999_999), "1.00 M"),
        (units.human_flops(4.2077618176e12), "4.21 TFLOP"),
        (units.human_seconds(0.1234), "0.123 s"),
        (units.human_seconds(247), "4:07"),
        (units.human_seconds(7447), "2:04:07"),
    ],
)
def test_numbers_read_as_people_say_them(said: str, words: str) -> None:
    assert said == words


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1e15))
def test_a_number_is_never_long(value: float) -> None:
    assert len(units.human_count(value)) <= 8
