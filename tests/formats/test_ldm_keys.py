"""Key maps of single files against diffusers' own converters, for every layout of the catalog."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from tests.tiny import tiny_vae

from ssd1b.formats.ldm_keys import unet_from_ldm, unet_to_ldm, vae_from_ldm, vae_to_ldm
from ssd1b.formats.unet_layout import shape_from_tensors
from ssd1b.plan import catalog
from ssd1b.plan.tensors import tensors

LAYOUTS = ("sdxl", "sdxl-mid", "ssd-1b", "vega", "koala-1b", "koala-700m", "mini-ssd")


@pytest.mark.parametrize("name", LAYOUTS)
def test_diffusers_reads_our_single_file_names_back_as_its_own(name: str) -> None:
    shape = catalog.find(name).shape
    sizes = tensors(shape)
    # Each tensor is stood for by its own name, so that a swap would be seen.
    checkpoint = {f"model.diffusion_model.{ldm}": ours for ours, ldm in unet_to_ldm(sizes).items()}
    back = convert_ldm_unet_checkpoint(checkpoint, shape.config())
    assert back == {key: key for key in sizes}


@pytest.mark.parametrize("name", LAYOUTS)
def test_single_file_names_come_back_without_a_config(name: str) -> None:
    sizes = tensors(catalog.find(name).shape)
    there = unet_to_ldm(sizes)
    assert len(set(there.values())) == len(sizes)
    assert unet_from_ldm(there.values()) == {ldm: ours for ours, ldm in there.items()}


def test_known_names_of_sdxl_are_the_published_ones() -> None:
    """Hand-written: names that A1111 and ComfyUI look for (see the layout facts of the original code)."""
    there = unet_to_ldm(tensors(catalog.find("sdxl").shape))
    known = {
        "conv_in.weight": "input_blocks.0.0.weight",
        "down_blocks.0.downsamplers.0.conv.bias": "input_blocks.3.0.op.bias",
        "down_blocks.2.attentions.1.proj_out.bias": "input_blocks.8.1.proj_out.bias",
        "mid_block.resnets.1.conv2.bias": "middle_block.2.out_layers.3.bias",
        "mid_block.attentions.0.proj_in.weight": "middle_block.1.proj_in.weight",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.2.conv.weight",
        "up_blocks.2.resnets.2.conv_shortcut.weight": "output_blocks.8.0.skip_connection.weight",
        "add_embedding.linear_2.weight": "label_emb.0.2.weight",
        "conv_norm_out.bias": "out.0.bias",
    }
    assert {name: there[name] for name in known} == known


@pytest.mark.parametrize("name", [name for name in LAYOUTS if not name.startswith("mini")])
def test_the_shape_is_read_from_the_weights_alone(name: str) -> None:
    shape = catalog.find(name).shape
    assert shape_from_tensors(tensors(shape), pooled_dim=1280, where="here") == shape


def test_the_vae_goes_there_and_back_as_diffusers_does_it() -> None:
    vae = tiny_vae()
    state = vae.state_dict()
    there = vae_to_ldm(state)
    assert vae_from_ldm(there.values()) == {ldm: ours for ours, ldm in there.items()}
    checkpoint = {f"first_stage_model.{ldm}": state[ours] for ours, ldm in there.items()}
    back = convert_ldm_vae_checkpoint(checkpoint, dict(vae.config))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_names_of_old_diffusers_vaes_are_understood() -> None:
    with torch.device("meta"):
        names = list(
            AutoencoderKL(block_out_channels=[32], down_block_types=["DownEncoderBlock2D"]).state_dict()
        )
    old = [n.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value") for n in names]
    old = [name.replace("to_out.0", "proj_attn") for name in old]
    assert list(vae_to_ldm(old).values()) == list(vae_to_ldm(names).values())
