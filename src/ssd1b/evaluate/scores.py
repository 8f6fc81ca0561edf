"""From what was asked and what the scene reader saw to scores with intervals.

Pure arithmetic: a verdict per picture, a share per kind, and the interval in which the model's true share
lies with 95 % certainty. This module does not know models, files or how pictures are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssd1b.evaluate.prompts import KINDS, Kind, Prompt

if TYPE_CHECKING:
    from ssd1b.mini.reader import Reading, Seen

Z_95 = 1.959963984540054
"""The normal quantile that leaves 2.5 % on either side."""
OFF_CENTRE = 0.40
"""A thing is on the left when its centre is left of this share of the width, and so on. In scenes, things in
the middle lie at 0.42 to 0.57 and placed ones at 0.17 to 0.37."""


@dataclass(frozen=True, slots=True)
class Score:
    """A share of passed pictures: `passed` of `n`, and its 95 % interval, all in 0..1."""

    score: float
    low: float
    high: float
    passed: int
    n: int


@dataclass(frozen=True, slots=True)
class Scores:
    """The score of each kind, and `overall`, the mean of the kinds."""

    kinds: Mapping[Kind, Score]
    overall: Score


def passes(prompt: Prompt, reading: Reading) -> bool:
    """Whether a picture shows what its prompt is there to test; each kind asks one thing only."""
    return _CRITERIA[prompt.kind](prompt, reading)


def scores(answers: Sequence[tuple[Prompt, Reading]]) -> Scores:
    """Score pictures kind by kind; every kind must be there at least once."""
    verdicts: dict[Kind, list[bool]] = {kind: [] for kind in KINDS}
    for prompt, reading in answers:
        verdicts[prompt.kind].append(passes(prompt, reading))
    kinds = {kind: share(sum(passed), len(passed)) for kind, passed in verdicts.items()}
    return Scores(kinds, mean(list(kinds.values())))


def share(passed: int, n: int) -> Score:
    """A share with Wilson's interval (1927), which holds near 0 and 1 and for few pictures."""
    assert 0 <= passed <= n and n > 0, f"{passed} of {n} is no share"
    p, z2 = passed / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Score(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), passed, n)


def mean(parts: Sequence[Score]) -> Score:
    """The mean of independent shares; its interval from theirs (MOVER, Zou and Donner 2008)."""
    count = len(parts)
    middle = sum(part.score for part in parts) / count
    down = math.sqrt(sum((part.score - part.low) ** 2 for part in parts)) / count
    up = math.sqrt(sum((part.high - part.score) ** 2 for part in parts)) / count
    passed, n = sum(part.passed for part in parts), sum(part.n for part in parts)
    return Score(middle, max(0.0, middle - down), min(1.0, middle + up), passed, n)


def _found(reading: Reading, noun: str) -> Seen | None:
    """The surest sighting of a noun."""
    return next((seen for seen in reading.things if seen.noun == noun), None)


def _one_object(prompt: Prompt, reading: Reading) -> bool:
    """The thing asked for is there, and nothing else."""
    return set(reading.nouns) == {prompt.nouns[0]}


def _two_objects(prompt: Prompt, reading: Reading) -> bool:
    """Both things are there."""
    return set(prompt.nouns) <= set(reading.nouns)


def _position(prompt: Prompt, reading: Reading) -> bool:
    """The thing is there, and its centre lies clearly on the side asked for."""
    seen = _found(reading, prompt.nouns[0])
    if seen is None:
        return False
    off = {"left": seen.x, "right": 1 - seen.x, "top": seen.y, "bottom": 1 - seen.y}[prompt.place]
    return off < OFF_CENTRE


def _background(prompt: Prompt, reading: Reading) -> bool:
    """The ground has the colour asked for, whatever stands on it."""
    return reading.background == prompt.background


def _style(prompt: Prompt, reading: Reading) -> bool:
    """The things are there, in the style asked for."""
    found = [_found(reading, noun) for noun in prompt.nouns]
    return all(seen is not None and seen.style == prompt.style for seen in found)


_CRITERIA: dict[Kind, Callable[[Prompt, Reading], bool]] = {
    "one_object": _one_object,
    "two_objects": _two_objects,
    "position": _position,
    "background": _background,
    "style": _style,
    "held_out": _style,
}
