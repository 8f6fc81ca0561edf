"""Operations and memory of each part, counted without running it.

The UNet's operations follow from its plan; those of the text encoders and the autoencoder are counted by
torch on tensors without data. Operations are two per multiply-add.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from ssd1b.base.units import latent_side
from ssd1b.formats import random_model
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.plan.count import TOKENS, parameters
from ssd1b.plan.count import flops as unet_flops
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.shape import UNetShape, shape_of

# Bytes per parameter of the UNet that an engine holds at 512x512, all in all, and the part that each latent
# adds; from the committed runs in docs/bench.
BYTES_PER_PARAMETER = {"fp32": 6.0, "openvino-fp16": 6.6, "openvino-int8": 3.1, "sd.cpp-q8_0": 2.2}
CONVERSION_BYTES_PER_PARAMETER = {"openvino-fp16": 7.6, "openvino-stock": 7.6, "openvino-int8": 8.0}
FIXED_BYTES = 900e6
MINI_TOKENS = 24
OTHERS = ("vae", "text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True)
class Counted:
    """A model that need not be on the disk: its UNet's shape, and where its other parts are described."""

    shape: UNetShape
    configs: Mapping[str, Mapping[str, Any]]

    def flops(self, part: str, px: tuple[int, int]) -> int:
        """Floating point operations of one part for one picture of (width, height) pixels."""
        if part == "unet":
            return unet_flops(self.shape, px[1], px[0], _tokens(self.shape))
        return _decoder(self.configs["vae"], px) if part == "decode" else _text(self.configs)

    def conversion_memory(self, engine: str) -> float:
        """Bytes that making an engine's files takes, 0 where there are none to make; measured on SSD-1B."""
        return CONVERSION_BYTES_PER_PARAMETER.get(engine, 0.0) * parameters(self.shape)

    def memory(self, engine: str) -> float:
        """Bytes that an engine will take with the UNet at 512x512, roughly."""
        known = "openvino-fp16" if engine == "openvino-stock" else engine
        each = BYTES_PER_PARAMETER.get(known, BYTES_PER_PARAMETER["fp32"])
        return FIXED_BYTES + each * parameters(self.shape)


def counted(folder: Path) -> Counted:
    """A pipeline folder, counted.

    Raises:
        LayoutError, MissingFileError: it is not one.
    """
    configs = {part: read_json(folder / part / "config.json") for part in ("unet", *OTHERS)}
    return Counted(shape_of(configs["unet"]), configs)


def counted_plan(plan: LayerPlan) -> Counted:
    """A plan of full size, with SDXL's text encoders and autoencoder."""
    return Counted(plan.shape, random_model.configs())


@cache
def flops_of(folder: Path, part: str, px: tuple[int, int]) -> int:
    """Floating point operations of one part of a folder's model.

    Raises:
        LayoutError, MissingFileError: the folder is not one of a pipeline.
    """
    return counted(folder).flops(part, px)


def _tokens(shape: UNetShape) -> int:
    return TOKENS if shape.cross_attention_dim >= 1024 else MINI_TOKENS


def _decoder(config: Mapping[str, Any], px: tuple[int, int]) -> int:
    import torch
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL.from_config(dict(config)).eval()
        latent = torch.empty(1, vae.config.latent_channels, latent_side(px[1]), latent_side(px[0]))
        return _flops(lambda: vae.decode(latent, return_dict=False))


def _text(configs: Mapping[str, Mapping[str, Any]]) -> int:
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    total = 0
    for name in ("text_encoder", "text_encoder_2"):
        config = CLIPTextConfig(**configs[name])
        with torch.device("meta"):
            encoder = CLIPTextModel(config).eval()
            ids = torch.zeros((1, config.max_position_embeddings), dtype=torch.long)
        total += _flops(partial(encoder, ids))
    return total


def _flops(run: Callable[[], object]) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())
