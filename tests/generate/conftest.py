"""One tiny model, as ours and as stock diffusers has it."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import StableDiffusionXLPipeline
from tests.generate.stock import stock_pipeline
from tests.tiny import tiny_pipeline

from ssd1b.generate.load import read_model
from ssd1b.generate.model import Model
from ssd1b.models.device import choose


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return read_model("tiny", folder, choose("cpu"))


@pytest.fixture(scope="module")
def stock(folder: Path) -> StableDiffusionXLPipeline:
    return stock_pipeline(folder)
