"""Named randomness."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ssd1b.base.seeds import seed_of

purposes = st.lists(st.text() | st.integers(), max_size=4)


def test_a_seed_is_the_same_on_every_machine_for_good() -> None:
    assert seed_of(0) == 6197007067532723406
    assert seed_of(7, "noise", 3) == 5775143075106970652


@settings(deadline=None, max_examples=50)
@given(st.integers(), purposes)
def test_a_seed_has_63_bits(seed: int, purpose: list[str | int]) -> None:
    assert 0 <= seed_of(seed, *purpose) < 2**63


@settings(deadline=None, max_examples=50)
@given(st.integers(), purposes, st.integers(), purposes)
def test_different_purposes_have_different_seeds(a: int, first: list, b: int, second: list) -> None:
    assert (seed_of(a, *first) == seed_of(b, *second)) == ((a, first) == (b, second))


def test_a_number_and_its_text_are_different_purposes() -> None:
    assert seed_of(0, 1) != seed_of(0, "1")
    assert seed_of(0, "a", "b") != seed_of(0, "ab")
