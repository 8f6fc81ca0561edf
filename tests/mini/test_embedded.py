"""The models in the package unfold into folders that stock diffusers and transformers load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ssd1b.mini
from ssd1b.base.errors import MissingFileError
from ssd1b.mini import embedded
from ssd1b.plan import catalog

PACKED = [name for name in embedded.NAMES if (Path(ssd1b.mini.__file__).parent / "weights" / name).is_dir()]


def test_everything_mini_is_at_most_64_megabytes() -> None:
    folder = Path(ssd1b.mini.__file__).parent
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) <= 64e6


def test_all_embedded_models_are_in_the_package() -> None:
    assert set(embedded.NAMES) == set(PACKED)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' schedulers
@pytest.mark.parametrize("name", PACKED)
def test_stock_diffusers_loads_an_embedded_model_without_a_missing_key(name) -> None:
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    folder = embedded.folder(name)
    _, info = UNet2DConditionModel.from_pretrained(folder / "unet", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pipe = StableDiffusionXLPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    latent = pipe(
        "a fox", num_inference_steps=1, guidance_scale=1.0, height=128, width=128, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert latent.shape == (1, 4, 16, 16) and bool(torch.isfinite(latent).all())


@pytest.mark.parametrize("name", PACKED)
def test_an_embedded_model_has_the_layout_its_plan_says(name) -> None:
    config = json.loads((embedded.folder(name) / "unet/config.json").read_text())
    planned = catalog.find("mini-ssd" if name == "mini-ssd" else "mini-sdxl").unet_config()
    for key, value in planned.items():
        if not key.startswith("_") and key in config:
            same = json.loads(json.dumps(value))
            assert config[key] == same, key


@pytest.mark.parametrize("name", embedded.DECODERS)
def test_stock_diffusers_loads_an_embedded_decoder_without_a_missing_key(name) -> None:
    from diffusers import AutoencoderTiny

    packed = Path(ssd1b.mini.__file__).parent / "weights" / name / embedded.WEIGHTS
    assert packed.stat().st_size < 300e3
    _, info = AutoencoderTiny.from_pretrained(embedded.folder(name), output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_an_unknown_embedded_model_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(MissingFileError, match="mini-sdxl"):
        embedded.folder("mini-sdlx")


def test_many_processes_may_unfold_a_model_at_once(tmp_path) -> None:
    code = "from ssd1b.mini import embedded; print(embedded.folder('mini-parts'))"
    alone = {**os.environ, "SSD1B_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=alone, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert [str(path) for path in (tmp_path / "mini").iterdir()] == list(said)
