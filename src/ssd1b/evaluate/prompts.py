"""The fixed prompts every mini model is judged by: what is asked, and what must then be seen.

Six kinds, split as GenEval splits its own (arXiv:2310.11513): one object, two objects, position, background,
style, and combinations that no training picture ever showed. Nothing is drawn at random at run time: prompt
number n of a kind is a pure function of its name. This module knows the mini world's vocabulary; it does not
know models or pictures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, cycle, islice
from typing import Literal, TypeVar

from ssd1b.base.errors import RequestError
from ssd1b.base.seeds import seed_of
from ssd1b.mini.scenes import (
    BACKGROUNDS,
    BUCKETS,
    HELD_OUT_DUOS,
    HELD_OUT_PAIRS,
    NOUNS,
    PLACE_WORDS,
    STYLES,
    grounds,
    places_of,
)

Kind = Literal["one_object", "two_objects", "position", "background", "style", "held_out"]
PER_KIND: dict[Kind, int] = {
    "one_object": 96,
    "two_objects": 96,
    "position": 96,
    "background": 88,
    "style": 88,
    "held_out": 96,
}
KINDS: tuple[Kind, ...] = tuple(PER_KIND)
TOTAL = sum(PER_KIND.values())

_SQUARE, *_OTHER_SIZES = BUCKETS
_PLACES = ("left", "right", "top", "bottom")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt and what its picture must show.

    Attributes:
        id: for good, e.g. "one_object-07"; the starting noise hangs on it.
        nouns: the one or two things asked for; both are in `style`.
        place: "left", "right", "top" or "bottom"; "" where nothing is said.
        size_px: (width, height), one of the nine.
        seed: of the starting noise.
    """

    id: str
    kind: Kind
    text: str
    nouns: tuple[str, ...]
    style: str
    background: str
    place: str
    size_px: tuple[int, int]
    seed: int


def prompts(n: int = TOTAL, seed: int = 0) -> tuple[Prompt, ...]:
    """Return `n` prompts, evenly over the kinds, in the order of the kinds.

    A smaller set is always part of a larger one. `seed` changes the starting noise, never the prompts.

    Raises:
        RequestError: `n` is less than one prompt per kind, or more than there are.
    """
    if not len(KINDS) <= n <= TOTAL:
        raise RequestError(
            f"{n} prompts were asked for; there are {TOTAL}, and at least {len(KINDS)} are needed, one of"
            f" each kind ({', '.join(KINDS)})."
        )
    counts = _shares(n)
    return tuple(
        replace(prompt, seed=seed_of(seed, "starting noise", prompt.id))
        for kind in KINDS
        for prompt in _of_kind(kind)[: counts[kind]]
    )


def showcase(asked: Sequence[Prompt], n: int = 8) -> tuple[Prompt, ...]:
    """Choose up to `n` square prompts to be looked at: every kind of request, other things each time."""
    wanted: tuple[Kind, ...] = ("one_object", "two_objects", "position", "held_out", "style", "background")
    square = [prompt for prompt in asked if prompt.size_px == _SQUARE]
    chosen: list[Prompt] = []
    for kind in islice(cycle(wanted), n):
        shown = {noun for prompt in chosen for noun in prompt.nouns}
        of_kind = [prompt for prompt in square if prompt.kind == kind and prompt not in chosen]
        if of_kind:
            chosen.append(min(of_kind, key=lambda prompt: len(shown & set(prompt.nouns))))
    return tuple(chosen)


def nine_sizes(seed: int = 0) -> tuple[Prompt, ...]:
    """One prompt for each of the nine sizes, one thing each; to be looked at, not scored."""
    made: list[Prompt] = []
    for number, size_px in enumerate(BUCKETS):
        noun, style = NOUNS[(5 * number) % len(NOUNS)], STYLES[1]
        style = style if (noun, style) not in HELD_OUT_PAIRS else STYLES[0]
        used = {prompt.background for prompt in made}
        visible = grounds((noun,), style)
        background = next((one for one in visible if one not in used), visible[0])
        name, text = f"size-{size_px[0]}x{size_px[1]}", _words(_Asked((noun,), style), background)
        noise = seed_of(seed, "starting noise", name)
        made.append(Prompt(name, "one_object", text, (noun,), style, background, "", size_px, noise))
    return tuple(made)


def _shares(n: int) -> dict[Kind, int]:
    """How many of each kind make up `n`, as even as the kinds' sizes allow."""
    counts = dict.fromkeys(KINDS, 0)
    turn = cycle(KINDS)
    while sum(counts.values()) < n:
        kind = next(turn)
        counts[kind] += counts[kind] < PER_KIND[kind]
    return counts


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a prompt asks for, before it is put into words."""

    nouns: tuple[str, ...]
    style: str
    place: str = ""


@cache
def _of_kind(kind: Kind) -> tuple[Prompt, ...]:
    """Every prompt of a kind; no two say the same."""
    made: dict[str, Prompt] = {}
    deck = _deck(tuple(BACKGROUNDS), kind)
    for number, asked in zip(range(PER_KIND[kind]), _told_apart(kind), strict=False):
        size_px = _size(number)
        if kind == "position":
            asked = replace(asked, place=_place(number, size_px))
        visible = set(grounds(asked.nouns, asked.style))
        turned = [*deck[number % len(deck) :], *deck[: number % len(deck)]]
        texts = {_words(asked, background): background for background in turned if background in visible}
        text = next((text for text in texts if text not in made), next(iter(texts)))
        name = f"{kind}-{number:02d}"
        made[text] = Prompt(
            name, kind, text, asked.nouns, asked.style, texts[text], asked.place, size_px, seed=0
        )
    assert len(made) == PER_KIND[kind], f"{kind}: only {len(made)} different prompts"
    return tuple(made.values())


def _size(number: int) -> tuple[int, int]:
    """Three prompts in ten are not square, each of the eight other sizes in turn."""
    tens, rest = divmod(number, 10)
    turn = {2: 0, 5: 1, 8: 2}.get(rest)
    return _SQUARE if turn is None else _OTHER_SIZES[(3 * tens + turn) % len(_OTHER_SIZES)]


def _place(number: int, size_px: tuple[int, int]) -> str:
    """Left, right, top, bottom in turn, as far as the frame is long enough to tell them apart."""
    possible = [place for place in _PLACES if place in places_of(*size_px)]
    return possible[number % len(possible)]


def _told_apart(kind: Kind) -> Iterator[_Asked]:
    """What the prompts of a kind ask for: every noun about equally often."""
    if kind == "held_out":
        yield from map(_held_out, range(PER_KIND[kind]))
        return
    nouns, styles = cycle(_deck(NOUNS, kind)), cycle(STYLES)
    for number in count():
        pair = kind == "two_objects" or (kind == "background" and number % 4 == 3)
        things = (next(nouns), _partner(kind, number)) if pair else (next(nouns),)
        asked = _Asked(things, next(styles))
        if len(set(things)) == len(things) and not _is_held_out(asked) and grounds(things, asked.style):
            yield asked
        if number % len(NOUNS) == len(NOUNS) - 1:
            next(styles)  # so that a noun meets another style on its next turn


def _partner(kind: Kind, number: int) -> str:
    return random.Random(seed_of(0, "partner", kind, number)).choice(NOUNS)


def _is_held_out(asked: _Asked) -> bool:
    pairs = {(noun, asked.style) for noun in asked.nouns}
    return bool(pairs & HELD_OUT_PAIRS) or frozenset(asked.nouns) in HELD_OUT_DUOS


def _held_out(number: int) -> _Asked:
    """Even numbers: a noun in the style it was never shown in. Odd: two nouns never shown together."""
    turn = number // 2
    if number % 2 == 0:
        noun, style = _deck(tuple(sorted(HELD_OUT_PAIRS)), "pairs")[turn % len(HELD_OUT_PAIRS)]
        return _Asked((noun,), style)
    duos = _deck(tuple(sorted(tuple(sorted(duo)) for duo in HELD_OUT_DUOS)), "duos")
    nouns = duos[turn % len(duos)]
    known = [
        style
        for style in STYLES
        if not {(noun, style) for noun in nouns} & HELD_OUT_PAIRS and grounds(nouns, style)
    ]
    return _Asked(nouns if turn % 2 else nouns[::-1], known[turn % len(known)])


def _deck(cards: Sequence[T], purpose: str) -> list[T]:
    """The cards, shuffled the same way every time."""
    deck = list(cards)
    random.Random(seed_of(0, "deck", purpose)).shuffle(deck)
    return deck


def _words(asked: _Asked, background: str) -> str:
    things = " and ".join(f"{_a(noun)} {noun}" for noun in asked.nouns)
    place = f" {PLACE_WORDS[asked.place]}" if asked.place else ""
    return f"{things}{place}, {asked.style} style, on {_a(background)} {background} background"


def _a(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
