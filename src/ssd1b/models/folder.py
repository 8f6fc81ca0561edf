"""Where the parts of a diffusers pipeline folder lie, and loading its UNet.

Knows names of folders and files, not what is inside; never reaches for the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ssd1b.base.errors import MissingFileError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")


def part_folder(folder: Path, part: str) -> Path:
    """The folder of one part ("unet", "vae", ...).

    Raises:
        MissingFileError: it is not there.
    """
    path = folder / part
    if not path.is_dir():
        raise MissingFileError(
            f"{folder} has no folder '{part}'. A complete SDXL pipeline folder holds {', '.join(PARTS)} "
            "and model_index.json; download or export the model again."
        )
    return path


def weight_variant(part: Path, dtype: torch.dtype) -> str | None:
    """Which weights to read: "fp16" where that is wanted or nothing else is there, else the plain ones.

    Raises:
        MissingFileError: the part holds no safetensors weights at all.
    """
    names = [path.name for path in part.glob("*.safetensors")]
    half = any(_is_half(name) for name in names)
    plain = any(not _is_half(name) for name in names)
    if not names:
        raise MissingFileError(
            f"{part} holds no *.safetensors weights. Only safetensors are read (pickled .bin or .ckpt files "
            "can run code); convert them first."
        )
    return "fp16" if half and (dtype == torch.float16 or not plain) else None


def load_unet(folder: Path, *, device: torch.device, dtype: torch.dtype) -> UNet2DConditionModel:
    """Read the UNet of a diffusers pipeline folder in eval mode; gradients are left as torch makes them."""
    from diffusers import UNet2DConditionModel

    part = part_folder(folder, "unet")
    unet = UNet2DConditionModel.from_pretrained(
        part,
        dtype=dtype,
        variant=weight_variant(part, dtype),
        use_safetensors=True,
        local_files_only=True,
    )
    return unet.to(device).eval()


def _is_half(name: str) -> bool:
    """`model.fp16.safetensors`, or a shard of it: `model.fp16-00001-of-00002.safetensors`."""
    return ".fp16." in name or ".fp16-" in name
