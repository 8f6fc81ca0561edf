"""Scenes and captions: what is said is what is drawn, and what is held out stays out."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd1b.mini.scenes import (
    BACKGROUNDS,
    BUCKETS,
    HELD_OUT_DUOS,
    HELD_OUT_PAIRS,
    NOUNS,
    STYLES,
    any_scene,
    caption,
    draw,
    grounds,
    places_of,
    stands_out,
    training_scene,
)

scenes = st.builds(
    training_scene, st.integers(0, 9), st.integers(0, 10**6), st.sampled_from(BUCKETS), st.just((5, 2, 4))
)


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_every_thing_lies_inside_the_frame(scene) -> None:
    for thing in scene.things:
        assert thing.side_px / 2 <= thing.x_px + 1 <= scene.width_px - thing.side_px / 2 + 2
        assert thing.side_px / 2 <= thing.y_px + 1 <= scene.height_px - thing.side_px / 2 + 2


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_training_never_shows_what_is_held_out(scene) -> None:
    assert not {(thing.noun, thing.style) for thing in scene.things} & HELD_OUT_PAIRS
    assert frozenset(thing.noun for thing in scene.things) not in HELD_OUT_DUOS


@settings(max_examples=60, deadline=None)
@given(scenes, st.integers(0, 1000))
def test_a_caption_names_every_noun_and_no_other(scene, seed) -> None:
    words = set(caption(scene, seed).replace(",", "").split())
    assert words & set(NOUNS) == {thing.noun for thing in scene.things}
    assert words & set(STYLES) <= {scene.style}
    # orange is a colour only: no noun of this world is called so
    assert words & set(BACKGROUNDS) <= {scene.background}


def test_a_caption_tells_the_order_of_two_things_truly() -> None:
    told = 0
    for n in range(400):
        scene = training_scene(7, n, BUCKETS[0], (0, 0, 1))
        text, (first, second) = caption(scene, n), scene.things
        for phrase, holds in (
            ("to the left of", first.x_px < second.x_px),
            ("to the right of", first.x_px < second.x_px),
            (" above ", first.y_px < second.y_px),
            (" below ", first.y_px < second.y_px),
        ):
            if phrase in text:
                told += 1
                starts_with_first = text.split()[1] == first.noun
                assert holds and starts_with_first == (phrase in ("to the left of", " above "))
    assert told > 50


def test_the_same_number_is_the_same_scene_and_another_is_not() -> None:
    assert training_scene(1, 5, BUCKETS[2]) == training_scene(1, 5, BUCKETS[2])
    assert len({training_scene(1, n, BUCKETS[0]) for n in range(50)}) > 45


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_picture_has_the_size_of_its_bucket_and_the_colour_of_its_background(bucket) -> None:
    scene = any_scene(3, 11, bucket)
    picture = draw(scene)
    assert picture.shape == (bucket[1], bucket[0], 3) and picture.dtype == np.uint8
    covered = np.zeros(picture.shape[:2], dtype=bool)
    for thing in scene.things:
        left, top = thing.x_px - thing.side_px // 2, thing.y_px - thing.side_px // 2
        covered[top : top + thing.side_px, left : left + thing.side_px] = True
    assert (picture[~covered] == BACKGROUNDS[scene.background]).all() and not covered.all()


def test_long_frames_have_places_along_their_long_side_only() -> None:
    assert places_of(192, 80) == ("left", "right")
    assert places_of(80, 192) == ("top", "bottom")
    assert len(places_of(128, 128)) == 4


def test_every_two_things_of_a_style_have_a_background_on_which_both_are_seen() -> None:
    rng = random.Random(0)
    for style in STYLES:
        for _ in range(40):
            assert len(grounds(tuple(rng.sample(NOUNS, 2)), style)) >= 5
    assert not stands_out("octopus", "flat", "purple")
    assert stands_out("octopus", "flat", "yellow")
