"""Scenes: what is in a picture, how it is drawn, and the captions that say exactly that.

A scene is one or two sprites of one style on a plain background. Everything about scene number `n` of a
split is a pure function of (split, seed, n). Some (noun, style) pairs and some pairs of nouns are never drawn
for training.

It knows nothing of networks, latents or batches.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Literal

import numpy as np
from PIL import Image

from ssd1b.base.seeds import seed_of
from ssd1b.mini.sprites import NOUNS as NOUNS
from ssd1b.mini.sprites import STYLES as STYLES
from ssd1b.mini.sprites import sprite

Kind = Literal["one", "place", "two"]
Weights = tuple[int, int, int]
KINDS: tuple[Kind, ...] = ("one", "place", "two")
Place = Literal["left", "right", "top", "bottom"]

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (214, 62, 60),
    "orange": (244, 152, 54),
    "yellow": (247, 218, 92),
    "green": (92, 176, 96),
    "blue": (72, 128, 214),
    "purple": (138, 92, 186),
    "pink": (246, 170, 196),
    "white": (246, 246, 244),
    "gray": (136, 140, 146),
    "black": (34, 34, 38),
}
# side in pixels by the word for it; nearly everything is drawn at the unnamed size: the fewer patterns there
# are to learn, the more often each is seen
SIZES: dict[str, int] = {"small": 48, "": 64, "big": 80}
SIZE_WEIGHTS = (1, 10, 1)
# corners lie on the coarsest grid of the UNet (latents are 1/8, halved twice), so a sprite meets its strides
# in one phase only
GRID_PX = 32
PLACES: tuple[Place, ...] = ("left", "right", "top", "bottom")
PLACE_WORDS = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}

# width, height: the nine resolutions of SSD-1B at one eighth
BUCKETS: tuple[tuple[int, int], ...] = (
    (128, 128), (144, 112), (112, 144), (152, 104), (104, 152), (168, 96), (96, 168), (192, 80), (80, 192),
)  # fmt: skip

# Never seen in training, for good: the "held-out" part of the evaluation asks for them.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("owl", "soft"),
        ("cactus", "glossy"),
        ("whale", "flat"),
        ("pizza", "soft"),
        ("rocket", "flat"),
        ("apple", "glossy"),
    }
)
HELD_OUT_DUOS: frozenset[frozenset[str]] = frozenset(
    frozenset(duo) for n, duo in enumerate(combinations(NOUNS, 2)) if n % 12 == 5
)


@dataclass(frozen=True, slots=True)
class Thing:
    """One sprite in a scene: centre and side in pixels."""

    noun: str
    style: str
    side_px: int
    x_px: int
    y_px: int


@dataclass(frozen=True, slots=True)
class Scene:
    """One or two things on a plain background. `size` is the word of SIZES, `place` of PLACES or ''."""

    things: tuple[Thing, ...]
    background: str
    width_px: int
    height_px: int
    size: str = ""
    place: str = ""

    @property
    def style(self) -> str:
        """The one style of everything in the scene."""
        return self.things[0].style


def draw(scene: Scene) -> np.ndarray:
    """The picture of a scene, uint8, height x width x 3."""
    picture = Image.new("RGB", (scene.width_px, scene.height_px), BACKGROUNDS[scene.background])
    for thing in scene.things:
        art = sprite(thing.noun, thing.style, thing.side_px)
        picture.paste(art, (thing.x_px - thing.side_px // 2, thing.y_px - thing.side_px // 2), art)
    return np.asarray(picture)


def places_of(width_px: int, height_px: int) -> tuple[Place, ...]:
    """The places that can be told apart in a frame of this shape: none along a side without a middle."""
    across: tuple[Place, ...] = ("left", "right") if len(_slots(width_px)) > 2 else ()
    down: tuple[Place, ...] = ("top", "bottom") if len(_slots(height_px)) > 2 else ()
    return across + down


def _slots(full_px: int, side_px: int = SIZES[""]) -> range:
    """Where along a side of the frame a thing may begin."""
    return range(0, full_px - side_px + 1, GRID_PX)


def held_out(nouns: Iterable[str], style: str) -> bool:
    """Whether these things in this style may never be drawn for training."""
    nouns = tuple(nouns)
    return any((noun, style) in HELD_OUT_PAIRS for noun in nouns) or frozenset(nouns) in HELD_OUT_DUOS


def training_scene(seed: int, n: int, bucket: tuple[int, int], weights: Weights = (5, 2, 4)) -> Scene:
    """Scene number `n` of the training split: no held-out pair of noun and style, no held-out duo."""
    rng = random.Random(seed_of(seed, "scene", n))
    kind = rng.choices(KINDS, weights=weights)[0]
    while True:
        nouns = tuple(rng.sample(NOUNS, 2 if kind == "two" else 1))
        style = rng.choice(STYLES)
        if not held_out(nouns, style):
            return compose(rng, kind, nouns, style, rng.choice(grounds(nouns, style)), bucket)


def any_scene(seed: int, n: int, bucket: tuple[int, int]) -> Scene:
    """A scene of any combination, held-out ones included: for the judge, never for the models judged."""
    rng = random.Random(seed_of(seed, "any scene", n))
    kind = rng.choices(KINDS, weights=(4, 2, 4))[0]
    nouns = tuple(rng.sample(NOUNS, 2 if kind == "two" else 1))
    style = rng.choice(STYLES)
    return compose(rng, kind, nouns, style, rng.choice(grounds(nouns, style)), bucket)


@cache
def stands_out(noun: str, style: str, background: str) -> bool:
    """Whether at least half of a sprite differs visibly from a background (purple on purple does not)."""
    art = np.asarray(sprite(noun, style, 48)).astype(int)
    ink = art[art[..., 3] > 128][:, :3]
    return bool((np.abs(ink - np.array(BACKGROUNDS[background])).sum(1) > 90).mean() >= 0.5)


def grounds(nouns: tuple[str, ...], style: str) -> tuple[str, ...]:
    """The backgrounds on which all these things can be seen."""
    return tuple(b for b in BACKGROUNDS if all(stands_out(noun, style, b) for noun in nouns))


def compose(
    rng: random.Random,
    kind: Kind,
    nouns: tuple[str, ...],
    style: str,
    background: str,
    bucket: tuple[int, int],
) -> Scene:
    """Lay out a scene: things begin on the grid, in the middle or at an edge, two at opposite edges."""
    width, height = bucket
    if kind == "two":
        beside = rng.choice([place in ("left", "right") for place in places_of(width, height)])
        ends: tuple[Place, Place] = ("left", "right") if beside else ("top", "bottom")
        things = tuple(_thing(noun, style, "", end, bucket) for noun, end in zip(nouns, ends, strict=True))
        return Scene(things, background, width, height)
    size = rng.choices(tuple(SIZES), weights=SIZE_WEIGHTS)[0]
    place: Place | Literal[""] = rng.choice(places_of(width, height)) if kind == "place" else ""
    if place and size == "big":
        size = ""
    return Scene((_thing(nouns[0], style, size, place, bucket),), background, width, height, size, place)


def _thing(noun: str, style: str, size: str, place: str, bucket: tuple[int, int]) -> Thing:
    """A thing at the place's edge of the frame and in the middle of its other side."""
    side = SIZES[size]
    corner = []
    for full, near, far in ((bucket[0], "left", "right"), (bucket[1], "top", "bottom")):
        slots = _slots(full, side)
        middle = min(slots, key=lambda at: abs(at + side / 2 - full / 2))
        corner.append({near: slots[0], far: slots[-1]}.get(place, middle))
    return Thing(noun, style, side, corner[0] + side // 2, corner[1] + side // 2)


def caption(scene: Scene, seed: int) -> str:
    """What is in the scene, in words.

    The seed only chooses among phrasings; sometimes style or background go unsaid.
    """
    rng = random.Random(seed_of(seed, "caption"))
    says_style, says_background = rng.random() < 0.92, rng.random() < 0.94
    parts = [_subject(scene, rng)]
    style, ground = f"{scene.style} style", f"on a{_n(scene.background)} {scene.background} background"
    if says_style and says_background:
        parts += [style, ground] if rng.random() < 0.75 else [ground, style]
    elif says_style or says_background:
        parts += [style if says_style else ground]
    return ", ".join(parts)


def _n(word: str) -> str:
    return "n" if word[0] in "aeiou" else ""


def _subject(scene: Scene, rng: random.Random) -> str:
    first = scene.things[0]
    if len(scene.things) == 1:
        words = [*([scene.size] if scene.size else []), first.noun]
        place = f" {PLACE_WORDS[scene.place]}" if scene.place else ""
        return f"a{_n(words[0])} {' '.join(words)}{place}"
    second = scene.things[1]
    a, b = (f"a{_n(t.noun)} {t.noun}" for t in scene.things)
    if rng.random() < 0.6:
        return f"{a} and {b}" if rng.random() < 0.5 else f"{b} and {a}"
    if abs(first.x_px - second.x_px) > abs(first.y_px - second.y_px):
        return f"{a} to the left of {b}" if rng.random() < 0.5 else f"{b} to the right of {a}"
    return f"{a} above {b}" if rng.random() < 0.5 else f"{b} below {a}"
