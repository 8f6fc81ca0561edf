"""What an eight-bit export is calibrated on: every timestep of a picture, both rows of guidance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_pipeline

from ssd1b.generate.engines.fake import FakeDenoiser
from ssd1b.generate.load import read_model
from ssd1b.generate.model import Model
from ssd1b.generate.openvino.calibrate import MAX_CALLS, recorded, well_read
from ssd1b.generate.pipeline import sample_latents
from ssd1b.generate.request import Request
from ssd1b.models.device import choose
from ssd1b.models.encoders import TextStack

FOX = Request(prompt="a fox", width=64, height=64, steps=10, guidance=5.0, scheduler="euler", seed=0)


@pytest.mark.parametrize("pictures, steps", [(12, 10), (4, 8), (2, 1), (30, 20)])
def test_calls_come_from_all_timesteps_and_both_rows_alike(tmp_path: Path, pictures: int, steps: int) -> None:
    model = replace(read_model("tiny", tiny_pipeline(tmp_path / "m"), choose("cpu")), denoiser=FakeDenoiser())
    requests = [FOX.model_copy(update={"seed": n, "steps": steps, "prompt": f"{n}"}) for n in range(pictures)]
    heard: list[int] = []
    found = recorded(model, requests, lambda: heard.append(1))
    assert len(heard) == pictures * steps
    assert len(found.calls) == min(MAX_CALLS, 2 * pictures * steps)
    times = [int(inputs["timestep"][0]) for inputs, _ in found.calls]
    silent = [not inputs["encoder_hidden_states"].any() for inputs, _ in found.calls]
    for half in (slice(0, None, 2), slice(1, None, 2)):
        assert len(set(times[half])) >= 0.6 * steps
    assert 0.2 * len(silent) <= sum(silent) <= 0.8 * len(silent)
    assert torch.equal(found.latents[0], sample_latents(model, requests[:1]))


def test_the_same_requests_are_calibrated_on_the_same_calls(tmp_path: Path) -> None:
    model = replace(read_model("tiny", tiny_pipeline(tmp_path / "m"), choose("cpu")), denoiser=FakeDenoiser())
    once, again = (recorded(model, [FOX] * 3, lambda: None).calls for _ in range(2))
    assert all((one["sample"] == two["sample"]).all() for (one, _), (two, _) in zip(once, again, strict=True))


def test_a_model_that_knows_its_prompts_draws_the_same_without_its_text_encoders(tmp_path: Path) -> None:
    folder = tiny_pipeline(tmp_path / "m")
    requests = [FOX, FOX.model_copy(update={"prompt": "an owl", "negative": "blurry"})]
    usual = replace(read_model("tiny", folder, choose("cpu")), denoiser=FakeDenoiser())
    read: list[Model] = []

    def reading() -> Model:
        read.append(replace(read_model("tiny", folder, choose("cpu")), denoiser=FakeDenoiser()))
        return replace(read[-1], text=encoders_away) if len(read) == 2 else read[-1]

    encoders_away = TextStack(usual.text.tokenizers, ())
    model = well_read(reading, requests)
    for request in requests:
        assert torch.equal(sample_latents(model, [request]), sample_latents(usual, [request]))
