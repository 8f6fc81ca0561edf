"""Opening diffusers folders: variants, shards, and everything that can be wrong with one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_pipeline

from ssd1b.base.errors import DamagedFileError, LayoutError, MissingFileError, UserError
from ssd1b.formats.detect import detect, open_model
from ssd1b.formats.diffusers_folder import open_folder
from ssd1b.plan import catalog


@pytest.fixture
def copy(sdxl_folder: Path, tmp_path: Path) -> Path:
    """A folder to break."""
    return Path(shutil.copytree(sdxl_folder, tmp_path / "copy"))


def test_variants_and_shards_give_the_same_tensors_as_plain_files(
    sdxl_folder: Path, sharded_half_folder: Path
) -> None:
    plain, sharded = open_folder(sdxl_folder), open_folder(sharded_half_folder)
    assert plain.unet.tensors.keys() == sharded.unet.tensors.keys()
    assert {view.dtype for view in sharded.unet.tensors.values()} == {"F16"}
    assert plain.unet.whole and not sharded.unet.whole
    assert len(sharded.weight_files) > len(plain.weight_files) == 4


def test_the_variant_that_is_asked_for_is_taken_where_there_are_two(copy: Path) -> None:
    tiny_pipeline(copy, "tiny-sdxl", variant="fp16")
    assert {view.dtype for view in open_folder(copy).unet.tensors.values()} == {"F32"}
    assert {view.dtype for view in open_folder(copy, variant="fp16").unet.tensors.values()} == {"F16"}


def test_two_variants_without_plain_weights_want_a_choice(copy: Path) -> None:
    plain = copy / "unet/diffusion_pytorch_model.safetensors"
    shutil.copy(plain, plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    plain.rename(plain.with_name("diffusion_pytorch_model.ema.safetensors"))
    with pytest.raises(MissingFileError, match=r"ema, fp16 only.*--variant"):
        open_folder(copy)


def test_a_missing_shard_is_named(sharded_half_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sharded_half_folder, tmp_path / "copy"))
    lost = sorted(copy.glob("unet/*-00002-of-*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(MissingFileError, match=f"1 are not there: {lost.name}"):
        open_folder(copy)


def test_shards_without_their_index_are_refused(sharded_half_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sharded_half_folder, tmp_path / "copy"))
    next(copy.glob("unet/*.index.*.json")).unlink()
    with pytest.raises(MissingFileError, match=r"holds shards, but not the .*index"):
        open_folder(copy)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_a_truncated_file_of_any_part_is_found(copy: Path, part: str) -> None:
    path = next((copy / part).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedFileError, match=f"{path.name} is cut short"):
        open_folder(copy)


def test_a_pickle_under_a_safetensors_name_is_found(copy: Path) -> None:
    torch.save({"x": torch.ones(1)}, copy / "vae/diffusion_pytorch_model.safetensors")
    with pytest.raises(DamagedFileError, match="PyTorch pickle"):
        open_folder(copy)


def test_weights_that_are_only_pickled_are_refused(copy: Path) -> None:
    (copy / "text_encoder/model.safetensors").rename(copy / "text_encoder/pytorch_model.bin")
    with pytest.raises(MissingFileError, match=r"pytorch_model\.bin only.*can run code"):
        open_folder(copy)


@pytest.mark.parametrize("part", ["unet", "tokenizer_2", "scheduler"])
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(MissingFileError, match=f"lacks the folders {part}"):
        open_folder(copy)


def test_missing_weights_and_configs_are_named(copy: Path) -> None:
    (copy / "unet/config.json").rename(copy / "unet/config.bak")
    with pytest.raises(MissingFileError, match=r"unet/config\.json"):
        open_folder(copy)
    (copy / "unet/config.bak").rename(copy / "unet/config.json")
    (copy / "vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"vae holds no \.safetensors"):
        open_folder(copy)


def test_broken_json_is_damage(copy: Path) -> None:
    (copy / "unet/config.json").write_text("{not json")
    with pytest.raises(DamagedFileError, match=r"config\.json is not valid JSON"):
        open_folder(copy)
    (copy / "unet/config.json").write_text("[1, 2]")
    with pytest.raises(DamagedFileError, match="no JSON object"):
        open_folder(copy)


def test_weights_of_another_model_than_the_config_are_refused(copy: Path, ssd_folder: Path) -> None:
    shutil.copy(ssd_folder / "unet/config.json", copy / "unet/config.json")
    with pytest.raises(LayoutError, match=r"of 944 tensors 736 are unexpected"):
        open_folder(copy)


def test_a_pipeline_of_another_family_is_refused(copy: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(LayoutError, match="holds a StableDiffusionPipeline"):
        open_folder(copy)


def test_a_part_whose_name_leads_elsewhere_is_refused(copy: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "../vae": ["diffusers", "AutoencoderKL"]}))
    with pytest.raises(LayoutError, match="no folder names"):
        open_folder(copy)


@pytest.mark.parametrize(
    ("fixture", "plan"), [("sdxl_folder", "sdxl"), ("ssd_folder", "ssd-1b"), ("single_file", "sdxl")]
)
def test_detection_tells_kind_and_layout(request: pytest.FixtureRequest, fixture: str, plan: str) -> None:
    path = request.getfixturevalue(fixture)
    found = detect(path)
    assert found.kind == ("single file" if path.is_file() else "diffusers folder")
    assert found.plan is not None
    assert catalog.find(found.plan).shape.depths == catalog.find(plan).shape.depths


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "Give the folder of a complete"),
        ({"config.json": "{}"}, "one model on its own"),
        ({"sdxl.safetensors": ""}, "give the path of the file itself"),
    ],
)
def test_a_folder_that_is_no_pipeline_gets_a_hint(tmp_path: Path, files: dict[str, str], words: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(MissingFileError, match=words):
        open_model(tmp_path)


def test_a_path_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no folder or file"):
        open_model(tmp_path / "nowhere")
