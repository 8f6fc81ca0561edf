"""The judge of pictures is itself judged."""

from __future__ import annotations

import numpy as np

from ssd1b.mini import reader
from ssd1b.mini.scenes import BACKGROUNDS, BUCKETS, any_scene, draw
from ssd1b.mini.train.reader import HELD_OUT_SEED, TRAINING_SEED, accuracy, judge


def test_the_shipped_reader_reads_scenes_it_never_saw() -> None:
    assert HELD_OUT_SEED != TRAINING_SEED
    scenes = [any_scene(HELD_OUT_SEED, 10_000 + n, BUCKETS[0]) for n in range(200)]
    readings = reader.load().read([draw(scene) for scene in scenes])
    rows = np.array([judge(s, r) for s, r in zip(scenes, readings, strict=True)])
    objects, _, background, _ = rows.mean(axis=0)
    assert objects >= 0.95 and background >= 0.98


def test_the_accuracy_that_is_shipped_is_the_accuracy_that_is_measured() -> None:
    measured = accuracy(reader.load())
    assert all(abs(measured[name] - value) <= 0.01 for name, value in reader.load().accuracy.items())


def test_an_empty_picture_shows_nothing_but_its_background() -> None:
    for name, colour in BACKGROUNDS.items():
        blank = np.full((128, 128, 3), colour, dtype=np.uint8)
        reading = reader.load().read([blank])[0]
        assert reading.things == () and reading.background == name


def test_noise_is_not_read_as_a_thing() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    found = [reading.things for reading in reader.load().read(list(noise))]
    assert sum(len(things) > 0 for things in found) <= 2


def test_a_reading_gives_the_place_of_each_thing() -> None:
    scene = any_scene(1, 4, BUCKETS[7])
    reading = reader.load().read([draw(scene)])[0]
    for thing in scene.things:
        seen = next(s for s in reading.things if s.noun == thing.noun)
        assert abs(seen.x - thing.x_px / scene.width_px) < 0.1
