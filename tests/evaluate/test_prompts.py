"""The fixed prompts: many, different, answerable, and honest about what was held out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict

import pytest

from ssd1b.base.errors import RequestError
from ssd1b.base.units import MINI_ASPECTS
from ssd1b.evaluate.prompts import KINDS, TOTAL, Prompt, prompts
from ssd1b.mini.scenes import (
    HELD_OUT_DUOS,
    HELD_OUT_PAIRS,
    NOUNS,
    STYLES,
    Scene,
    Thing,
    caption,
    places_of,
    stands_out,
)

# Made by `_digest(prompts())`. It changes when the prompts change, and then no older score can be compared.
GOLDEN = "58be2059612c056b"


def _digest(asked: tuple[Prompt, ...]) -> str:
    return hashlib.sha256(json.dumps([asdict(prompt) for prompt in asked]).encode()).hexdigest()[:16]


def _scene(prompt: Prompt) -> Scene:
    """A scene that shows exactly what a prompt asks for."""
    centres = {1: [(64, 64)], 2: [(30, 64), (98, 64)]}[len(prompt.nouns)]
    things = tuple(
        Thing(noun, prompt.style, 40, x, y) for noun, (x, y) in zip(prompt.nouns, centres, strict=True)
    )
    return Scene(things, prompt.background, 128, 128, place=prompt.place)


def _is_held_out(prompt: Prompt) -> bool:
    pairs = {(noun, prompt.style) for noun in prompt.nouns}
    return bool(pairs & HELD_OUT_PAIRS) or frozenset(prompt.nouns) in HELD_OUT_DUOS


def test_the_prompts_are_the_ones_that_scores_were_published_for() -> None:
    assert _digest(prompts()) == GOLDEN


def test_there_are_at_least_500_prompts_and_no_two_say_the_same_within_a_kind() -> None:
    asked = prompts()
    assert len(asked) == TOTAL >= 500
    assert len({(prompt.kind, prompt.text) for prompt in asked}) == TOTAL
    assert len({prompt.id for prompt in asked}) == len({prompt.seed for prompt in asked}) == TOTAL


def test_every_kind_of_prompt_asks_for_every_noun_style_and_size() -> None:
    for kind in KINDS:
        of_kind = [prompt for prompt in prompts() if prompt.kind == kind]
        assert {prompt.style for prompt in of_kind} == set(STYLES)
        assert {prompt.size_px for prompt in of_kind} == set(MINI_ASPECTS.values())
        if kind != "held_out":
            assert {noun for prompt in of_kind for noun in prompt.nouns} == set(NOUNS)


def test_most_pictures_are_square() -> None:
    square = sum(prompt.size_px == (128, 128) for prompt in prompts())
    assert 0.6 < square / TOTAL < 0.8


def test_only_the_held_out_kind_asks_for_what_training_never_showed() -> None:
    for prompt in prompts():
        assert _is_held_out(prompt) == (prompt.kind == "held_out"), prompt.text


def test_half_of_the_held_out_prompts_are_pairs_of_noun_and_style_and_half_are_duos_of_nouns() -> None:
    held_out = [prompt for prompt in prompts() if prompt.kind == "held_out"]
    assert Counter(len(prompt.nouns) for prompt in held_out) == {1: 48, 2: 48}
    assert {(p.nouns[0], p.style) for p in held_out if len(p.nouns) == 1} == HELD_OUT_PAIRS
    assert {frozenset(p.nouns) for p in held_out if len(p.nouns) == 2} == HELD_OUT_DUOS
    for prompt in held_out:
        assert len(prompt.nouns) == 1 or not {(n, prompt.style) for n in prompt.nouns} & HELD_OUT_PAIRS


def test_a_prompt_is_worded_as_the_captions_of_training_are() -> None:
    for prompt in prompts()[::7]:
        said = {caption(_scene(prompt), seed) for seed in range(80)}
        assert prompt.text in said


def test_everything_asked_for_can_be_seen_on_its_background() -> None:
    for prompt in prompts():
        assert all(stands_out(noun, prompt.style, prompt.background) for noun in prompt.nouns)


def test_a_place_is_only_asked_for_where_the_frame_can_tell_it_apart() -> None:
    for prompt in prompts():
        assert (prompt.kind == "position") == bool(prompt.place)
        assert not prompt.place or prompt.place in places_of(*prompt.size_px)


@pytest.mark.parametrize("n", [6, 30, 97, TOTAL])
def test_a_smaller_set_is_an_even_part_of_the_whole(n: int) -> None:
    part = prompts(n)
    counts = Counter(prompt.kind for prompt in part)
    assert len(part) == n
    assert set(part) <= set(prompts())
    assert n == TOTAL or max(counts.values()) - min(counts.values()) <= 1


def test_another_seed_changes_the_noise_and_nothing_else() -> None:
    for one, other in zip(prompts(12), prompts(12, seed=1), strict=True):
        assert one.seed != other.seed
        assert asdict(one) | {"seed": 0} == asdict(other) | {"seed": 0}


@pytest.mark.parametrize("n", [0, 5, TOTAL + 1])
def test_a_number_of_prompts_that_cannot_be_is_refused_with_the_bounds(n: int) -> None:
    with pytest.raises(RequestError, match=f"there are {TOTAL}, and at least 6"):
        prompts(n)
