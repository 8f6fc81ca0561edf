"""Single-file checkpoints: what we write diffusers' converters read, and what we read is what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file, save_file
from tests.tiny import tiny_pipeline
from transformers import CLIPTextModelWithProjection

from ssd1b.base.errors import LayoutError, MissingFileError
from ssd1b.formats.diffusers_folder import open_folder
from ssd1b.formats.pipeline import Pipeline
from ssd1b.formats.safetensors_io import read_bytes, read_file, write_file
from ssd1b.formats.single_file import CONFIGS, open_single_file, to_single_file
from ssd1b.formats.views import View


def weights_of(pipeline: Pipeline) -> dict[str, dict[str, View]]:
    parts = {part.name: dict(part.weights.tensors) for part in pipeline.parts if part.weights}
    return {"unet": dict(pipeline.unet.tensors), **parts}


def with_prefix(name: str) -> str:
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def without_configs(single_file: Path, path: Path, **changes: torch.Tensor | None) -> Path:
    """The checkpoint as anybody else writes it, with tensors added or (None) taken away."""
    state = {**load_file(single_file), **changes}
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    return path


def test_opening_gives_back_every_byte_of_every_part(single_file: Path, sdxl_folder: Path) -> None:
    folder, single = weights_of(open_folder(sdxl_folder)), weights_of(open_single_file(single_file))
    assert folder.keys() == single.keys()
    for part, views in folder.items():
        renamed = {
            with_prefix(name) if part.startswith("text") else name: view for name, view in views.items()
        }
        assert renamed.keys() == single[part].keys(), part
        for name, view in renamed.items():
            assert (single[part][name].dtype, single[part][name].shape) == (view.dtype, view.shape)
            assert read_bytes(single[part][name]) == read_bytes(view), f"{part} {name}"


def test_configs_come_back_from_the_metadata(single_file: Path, sdxl_folder: Path) -> None:
    folder, single = open_folder(sdxl_folder), open_single_file(single_file)
    assert single.unet_config == folder.unet_config
    assert single.index == folder.index
    configs = {part.name: part.files["config.json"] for part in single.parts if "config.json" in part.files}
    assert json.loads(str(configs["vae"])) == json.loads((sdxl_folder / "vae/config.json").read_text())


def test_diffusers_converters_read_what_we_write(single_file: Path, sdxl_folder: Path) -> None:
    checkpoint = load_file(single_file)
    unet = load_file(sdxl_folder / "unet/diffusion_pytorch_model.safetensors")
    config = json.loads((sdxl_folder / "unet/config.json").read_text())
    assert_same(convert_ldm_unet_checkpoint(dict(checkpoint), config), unet)
    vae = load_file(sdxl_folder / "vae/diffusion_pytorch_model.safetensors")
    vae_config = json.loads((sdxl_folder / "vae/config.json").read_text())
    assert_same(convert_ldm_vae_checkpoint(dict(checkpoint), vae_config), vae)
    first = load_file(sdxl_folder / "text_encoder/model.safetensors")
    found = convert_ldm_clip_checkpoint(dict(checkpoint))
    assert_same(
        {with_prefix(name): tensor for name, tensor in found.items()},
        {with_prefix(n): t for n, t in first.items()},
    )
    model = CLIPTextModelWithProjection.from_pretrained(sdxl_folder / "text_encoder_2")
    second = load_file(sdxl_folder / "text_encoder_2/model.safetensors")
    found = convert_open_clip_checkpoint(model, dict(checkpoint), prefix="conditioner.embedders.1.model.")
    assert_same(
        {with_prefix(name): tensor for name, tensor in found.items()},
        {with_prefix(n): t for n, t in second.items()},
    )


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_student_goes_through_a_single_file_too(ssd_folder: Path, tmp_path: Path) -> None:
    pipeline = open_folder(ssd_folder)
    file = to_single_file(pipeline)
    write_file(tmp_path / "ssd.safetensors", file.tensors, metadata=file.metadata)
    assert not any(".middle_block.1." in name or ".middle_block.2." in name for name in file.tensors)
    back = open_single_file(tmp_path / "ssd.safetensors")
    assert back.unet.tensors.keys() == pipeline.unet.tensors.keys()


def test_without_metadata_the_configs_are_those_of_sdxl(single_file: Path, tmp_path: Path) -> None:
    pipeline = open_single_file(without_configs(single_file, tmp_path / "plain.safetensors"))
    parts = {part.name: part for part in pipeline.parts}
    assert pipeline.unet_config["transformer_layers_per_block"] == [1, 2, 10]
    assert pipeline.unet_config["cross_attention_dim"] == 48
    assert pipeline.unet_config["addition_time_embed_dim"] == 8
    scheduler = json.loads(str(parts["scheduler"].files["scheduler_config.json"]))
    assert (scheduler["_class_name"], scheduler["prediction_type"]) == ("EulerDiscreteScheduler", "epsilon")
    second = json.loads(str(parts["text_encoder_2"].files["config.json"]))
    assert (second["hidden_size"], second["num_hidden_layers"], second["projection_dim"]) == (32, 3, 32)
    assert (second["hidden_act"], second["max_position_embeddings"]) == ("gelu", 24)
    vae = json.loads(str(parts["vae"].files["config.json"]))
    assert (vae["block_out_channels"], vae["latent_channels"], vae["layers_per_block"]) == ([8] * 4, 4, 1)
    assert vae["scaling_factor"] == 0.13025


def test_the_marker_of_v_prediction_is_heeded(single_file: Path, tmp_path: Path) -> None:
    path = without_configs(
        single_file, tmp_path / "v.safetensors", v_pred=torch.zeros(0), ztsnr=torch.zeros(0)
    )
    parts = {part.name: part for part in open_single_file(path).parts}
    scheduler = json.loads(str(parts["scheduler"].files["scheduler_config.json"]))
    assert scheduler["prediction_type"] == "v_prediction" and scheduler["rescale_betas_zero_snr"] is True


def test_attention_convolutions_of_the_vae_become_matrices(single_file: Path, tmp_path: Path) -> None:
    state = load_file(single_file)
    name = "first_stage_model.encoder.mid.attn_1.q.weight"
    state[name] = state[name][:, :, None, None].contiguous()
    save_file(state, tmp_path / "conv.safetensors", metadata=dict(read_file(single_file).metadata))
    views = weights_of(open_single_file(tmp_path / "conv.safetensors"))["vae"]
    assert views["encoder.mid_block.attentions.0.to_q.weight"].shape == (8, 8)


def test_a_checkpoint_without_a_vae_is_refused_by_name(single_file: Path, tmp_path: Path) -> None:
    state = {n: t for n, t in load_file(single_file).items() if not n.startswith("first_stage_model.")}
    save_file(state, tmp_path / "no-vae.safetensors")
    with pytest.raises(MissingFileError, match="holds no vae"):
        open_single_file(tmp_path / "no-vae.safetensors")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("cond_stage_model.transformer.text_model.x", "Stable Diffusion 1.x"),
        ("conditioner.embedders.0.model.ln_final.weight", "refiner"),
        ("lora_unet_down_blocks_1.lora_up.weight", "LoRA"),
        ("down_blocks.0.resnets.0.conv1.weight", "UNet of a diffusers folder on its own"),
        ("model.diffusion_model.double_blocks.0.x", "Flux"),
        ("something.else", "not an SDXL checkpoint"),
    ],
)
def test_other_kinds_of_model_are_called_by_their_name(tmp_path: Path, key: str, words: str) -> None:
    save_file({key: torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(LayoutError, match=words):
        open_single_file(tmp_path / "other.safetensors")


def test_weights_that_do_not_fit_are_named(single_file: Path, tmp_path: Path) -> None:
    broken = {"model.diffusion_model.out.2.bias": None, "model.diffusion_model.out.0.bias": torch.ones(3)}
    state = {**load_file(single_file), **broken}
    save_file(
        {name: tensor for name, tensor in state.items() if tensor is not None},
        tmp_path / "broken.safetensors",
        metadata={CONFIGS: read_file(single_file).metadata[CONFIGS]},
    )
    with pytest.raises(LayoutError, match=r"missing \(conv_out.bias\).*of another size \(conv_norm_out.bias"):
        open_single_file(tmp_path / "broken.safetensors")


def test_half_precision_folders_make_half_precision_files(tmp_path: Path) -> None:
    folder = tiny_pipeline(tmp_path / "half", "tiny-ssd", variant="fp16")
    file = to_single_file(open_folder(folder))
    write_file(tmp_path / "half.safetensors", file.tensors, metadata=file.metadata)
    floats = {view.dtype for name, view in read_file(tmp_path / "half.safetensors").tensors.items()}
    assert floats == {"F16"}
