"""Every mode on the OpenVINO engine: the pictures that torch makes, from the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import tiny_pipeline

from ssd1b.generate.canvas import Canvas
from ssd1b.generate.load import read_model
from ssd1b.generate.model import Model
from ssd1b.generate.openvino.calibrate import psnr_db
from ssd1b.generate.openvino.export import Order, export
from ssd1b.generate.openvino.load import read_export
from ssd1b.generate.pipeline import sample
from ssd1b.generate.request import request_of
from ssd1b.models.device import choose

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]
HALF = Image.new("L", (64, 96))
HALF.paste(255, (0, 0, 32, 96))
CANVAS = Canvas(Image.linear_gradient("L").resize((64, 96)).convert("RGB"), HALF)
FIELDS = {"width": 64, "height": 96, "steps": 3, "guidance": 5.0, "scheduler": "euler-a", "seed": 7}
MODES: dict[str, dict[str, object]] = {
    "over a picture": {"image": CANVAS.fields()["image"], "strength": 0.7},
    "inside a mask": {**CANVAS.fields(), "strength": 0.7},
    "in two passes": {"hires": 1.5, "hires_upscaler": "lanczos"},
    "of a long, weighted prompt": {"prompt": "a (fox:1.4), flat style, on a blue background BREAK a pizza"},
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """The same tiny model by torch and, exported, by OpenVINO."""
    place = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD1B_CACHE", str(place / "cache"))
        source: Path = tiny_pipeline(place / "model", variant="fp16")
        export(Order(source, "tiny", "fp16"), place / "fp16", ["test"], lambda *_: None)
        yield read_model("tiny", source, choose("cpu")), read_export("tiny", place / "fp16")


@pytest.mark.parametrize("mode", MODES)
def test_both_engines_make_the_same_picture(engines: tuple[Model, Model], mode: str) -> None:
    request = request_of({"prompt": "a fox", **FIELDS, **MODES[mode]})
    by_torch, by_openvino = (sample(model, [request], canvases=CANVAS.by_digest())[0] for model in engines)
    assert psnr_db(np.asarray(by_openvino), np.asarray(by_torch)) > 35


def test_a_sample_of_the_posterior_is_the_same_on_both(engines: tuple[Model, Model]) -> None:
    pixels = torch.rand(1, 3, 64, 72, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(1, 4, 8, 9, generator=torch.Generator().manual_seed(1))
    right, found = (model.vae.encode(pixels, noise) for model in engines)
    mean = engines[0].vae.encode(pixels)
    assert (found - right).norm() / right.norm() < 1e-3 < (right - mean).norm() / right.norm()
