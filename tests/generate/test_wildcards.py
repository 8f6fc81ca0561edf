"""Gaps in prompts: filled from files and choices, the same way for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd1b.base.errors import MissingFileError, RequestError
from ssd1b.generate.wildcards import Wildcards, read_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "color.txt").write_text("# colours\nred\nblue\n\n  lime  \n")
    (tmp_path / "hair_color.txt").write_text("dark __color__\n")
    (tmp_path / "animals").mkdir()
    (tmp_path / "animals" / "birds.txt").write_text(
        "\ufeffan owl\r\na {red|blue} parrot\r\n", encoding="utf-8"
    )
    (tmp_path / "loop.txt").write_text("a __loop__\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    return tmp_path


def test_every_line_comes_up_and_the_same_seed_says_the_same(folder: Path) -> None:
    said = [Wildcards(folder).filled("a __color__ fox", seed) for seed in range(40)]
    assert set(said) == {"a red fox", "a blue fox", "a lime fox"}
    assert said == [Wildcards(folder).filled("a __color__ fox", seed) for seed in range(40)]


def test_two_gaps_of_one_name_are_drawn_apart(folder: Path) -> None:
    pairs = {Wildcards(folder).filled("__color__ __color__", seed) for seed in range(100)}
    assert len(pairs) == 9


def test_lines_and_choices_may_have_gaps_of_their_own(folder: Path) -> None:
    wild = Wildcards(folder)
    assert {wild.filled("__hair_color__", seed) for seed in range(40)} == {
        "dark red",
        "dark blue",
        "dark lime",
    }
    birds = {wild.filled("__animals/birds__", seed) for seed in range(40)}
    assert birds == {"an owl", "a red parrot", "a blue parrot"}
    nested = {wild.filled("{a|{b|c}} {|d}", seed) for seed in range(99)}
    assert nested == {f"{first} {second}" for first in "abc" for second in ("", "d")}


@given(st.text(st.characters(exclude_characters="{}_", exclude_categories=["Cs"])), st.integers(0, 2**63 - 1))
def test_a_prompt_without_gaps_stays_as_it_is(prompt: str, seed: int) -> None:
    assert Wildcards().filled(prompt, seed) == prompt


@pytest.mark.parametrize("prompt", ["{a}", "a_b__c", "__", "____", "__ __", "{", "}|{", "__../secret__"])
def test_what_only_looks_like_a_gap_is_text(prompt: str, folder: Path) -> None:
    assert Wildcards(folder).filled(prompt, 1) == prompt


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("__colour__", "Did you mean 'color'"),
        ("__zzz__", "There are: animals/birds, color, empty"),
        ("__loop__", "do not come to an end"),
        ("__empty__", "no line to choose from"),
    ],
)
def test_a_gap_that_cannot_be_filled_says_why(folder: Path, prompt: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Wildcards(folder).filled(prompt, 1)


def test_a_wildcard_without_a_folder_asks_for_one() -> None:
    with pytest.raises(RequestError, match="--wildcards"):
        Wildcards().filled("a __color__ fox", 1)


def test_a_file_of_lines_must_be_text(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_lines(tmp_path / "none.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="not a text file"):
        read_lines(tmp_path / "binary.txt")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(20_000_000)
    with pytest.raises(RequestError, match="no file of prompts"):
        read_lines(tmp_path / "huge.txt")
