"""The stop-watch: parts add up, models take turns, medians are medians."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.evaluate.fakes import fake_model

from ssd1b.evaluate.bench import Lap, measure, speed_of
from ssd1b.evaluate.judging import request_for, settings_of
from ssd1b.generate.engines.fake import FakeDenoiser


def test_each_model_draws_one_picture_more_than_is_counted_in_turns(tmp_path: Path) -> None:
    model, order = fake_model(tmp_path / "tiny"), []
    settings = settings_of(model, 3, 1.0)

    class Marked(FakeDenoiser):
        def predict_noise(self, *given: object) -> object:
            order.append(id(self))
            return super().predict_noise(*given)

    pair = [dataclasses.replace(model, denoiser=Marked()) for _ in range(2)]
    requests = [request_for(one, "a fox", (128, 128), 1, settings) for one in pair]
    speeds = measure(pair, requests, rounds=2)
    first, second = (id(one.denoiser) for one in pair)
    assert order == [first] * 3 + [second] * 3 + [first] * 3 + [second] * 3 + [first] * 3 + [second] * 3
    assert all(speed.rounds == 2 and speed.seconds > 0 for speed in speeds)


def test_a_speed_is_the_median_and_its_parts_are_medians_too() -> None:
    laps = [Lap(0.1, 1.0, 0.2), Lap(0.1, 3.0, 0.2), Lap(0.3, 1.2, 0.2)]
    speed = speed_of(laps)
    assert speed.seconds == pytest.approx(1.7)
    assert (speed.text, speed.unet, speed.vae) == pytest.approx((0.1, 1.2, 0.2))
    assert speed.quartiles[0] <= speed.seconds <= speed.quartiles[1]


def test_a_single_round_is_its_own_quartiles() -> None:
    assert speed_of([Lap(0.1, 1.0, 0.2)]).quartiles == pytest.approx((1.3, 1.3))
