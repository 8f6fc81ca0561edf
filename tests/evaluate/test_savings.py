"""What is saved, and what it costs: settings take turns, ratios follow from seconds, the page says them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderTiny
from tests.tiny import tiny_pipeline

from ssd1b.evaluate.savings import (
    BATCH,
    SETTINGS,
    WAYS,
    WHOLE,
    Laps,
    Setting,
    markdown,
    measure,
    measure_batches,
    ratios,
    rows_of,
)
from ssd1b.generate.engines.torch import TorchDenoiser
from ssd1b.generate.load import EngineWish, load
from ssd1b.generate.model import Model
from ssd1b.generate.request import Request

FOX = Request(prompt="a fox", width=64, height=64, steps=6, guidance=5.0, scheduler="euler", seed=7)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """A tiny model, and the same with a tiny decoder."""
    place = tmp_path_factory.mktemp("savings")
    folder = tiny_pipeline(place / "model")
    widths = {"encoder_block_out_channels": [8] * 4, "decoder_block_out_channels": [8] * 4}
    AutoencoderTiny(**widths).save_pretrained(place / "taesd")
    wishes = EngineWish("torch"), EngineWish("torch", decoder=place / "taesd")
    plain, tiny = (load(str(folder), device="cpu", wish=wish) for wish in wishes)
    return plain, tiny


class Encoders:
    """Counts what the text encoders are asked."""

    def __init__(self, model: Model) -> None:
        self.inner, self.asked = model.text, []
        self.tokenizers, self.max_tokens = model.text.tokenizers, model.text.max_tokens

    def encode_ids(self, ids: tuple[torch.Tensor, torch.Tensor], weights: object = None) -> object:
        self.asked.extend(ids[0].tolist())
        return self.inner.encode_ids(ids)


def test_every_setting_is_timed_in_every_round_and_compared_with_the_whole(pair: tuple[Model, Model]) -> None:
    rounds = [FOX.model_copy(update={"seed": seed}) for seed in range(3)]
    heard: list[int] = []
    found = measure(*pair, rounds, on_done=heard.append)
    assert list(found) == [setting.name for setting in SETTINGS]
    assert len(heard) == 3 * len(SETTINGS)
    for name, laps in found.items():
        assert len(laps.seconds) == 2 and min(laps.seconds) > 0
        assert len(laps.psnr_db) == (0 if name == WHOLE else 2)
        assert all(0 < value < 99 for value in laps.psnr_db), "each setting changes the picture"


def test_a_setting_that_leaves_nothing_out_draws_the_whole_picture(pair: tuple[Model, Model]) -> None:
    found = measure(*pair, [FOX, FOX], [Setting(WHOLE), Setting("the same")])
    assert found["the same"].psnr_db == [99.0]


def test_text_is_encoded_each_time_or_once_and_never_left_from_before(pair: tuple[Model, Model]) -> None:
    encoders = Encoders(pair[0])
    model = replace(pair[0], text=encoders)  # type: ignore[arg-type]
    requests = [FOX.model_copy(update={"seed": seed}) for seed in range(BATCH)]
    counts = []
    for way in WAYS.values():
        encoders.asked.clear()
        measured = replace(model, known_text=type(model.known_text)())
        way(measured, requests)
        counts.append(len(encoders.asked))
    assert counts == [2 * BATCH, 2, 2, 2]  # the prompt, and the empty one that is steered away from


def test_rows_go_one_by_one_or_all_together(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    whole = TorchDenoiser._whole

    def spy(self, latent, step, cond):  # type: ignore[no-untyped-def]
        rows.append(latent.shape[0])
        return whole(self, latent, step, cond)

    monkeypatch.setattr(TorchDenoiser, "_whole", spy)
    requests = [FOX.model_copy(update={"seed": seed}) for seed in range(3)]
    WAYS["in one batch, row by row"](pair[0], requests)
    assert set(rows) == {1} and len(rows) == 2 * 3 * FOX.steps
    rows.clear()
    WAYS["in one batch, rows together"](pair[0], requests)
    assert rows == [6] * FOX.steps


def test_each_way_is_timed_by_the_picture_and_its_first_round_is_not_counted(
    pair: tuple[Model, Model],
) -> None:
    found = measure_batches(pair[0], [[FOX], [FOX], [FOX]])
    assert list(found) == list(WAYS)
    assert all(len(laps.seconds) == 2 for laps in found.values())


def test_ratios_are_of_medians() -> None:
    laps = {WHOLE: Laps([2.0, 4.0, 90.0]), "reuse 2": Laps([1.0, 2.0, 3.0], [30.0, 31.0, 35.0])}
    ways = dict(zip(WAYS, (Laps([4.0]), Laps([2.0]), Laps([3.0]), Laps([2.0])), strict=True))
    assert ratios("m", {"torch": laps}, ways) == {
        "m/torch/reuse-2": 2.0,
        "m/torch/text-once": 2.0,
        "m/torch/rows-together": 1.5,
    }
    assert laps["reuse 2"].told()["psnr_db"] == 31.0


def test_the_table_says_what_was_measured_and_what_was_not_scored() -> None:
    laps = {WHOLE: Laps([2.0, 4.0]), "reuse 2": Laps([1.0, 2.0], [30.0, 31.0])}
    ways = {name: Laps([2.0, 2.0]) for name in WAYS}
    record = {
        "model": "m",
        "pictures": {"torch": {name: each.told() for name, each in laps.items()}},
        "batch": {name: each.told() for name, each in ways.items()},
        "ratios": ratios("m", {"torch": laps}, ways),
        "scores": {"torch": {"reuse 2": {"overall": 0.876, "prompts": 560}}},
    }
    assert rows_of(record) == [
        (WHOLE, "3.000 s", "1.00×", "not scored", "–"),
        ("reuse 2", "1.500 s", "2.00×", "87.6 % of 560", "30.5 dB"),
    ]
    assert "| reuse 2 | 1.500 s | 2.00× | 87.6 % of 560 | 30.5 dB |" in markdown(record)
