"""An export for OpenVINO, as a model that makes pictures.

Does not know how it was exported, nor how pictures are made. Networks are compiled when a size is first asked
for.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

from ssd1b.base.errors import RequestError
from ssd1b.base.files import MANIFEST
from ssd1b.base.units import human_bytes
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.formats.openvino_ir import IR_WEIGHTS, NETWORKS, Record, read_record
from ssd1b.generate.model import Model, defaults_of
from ssd1b.generate.openvino import needed, version
from ssd1b.generate.openvino.denoiser import denoiser_of
from ssd1b.generate.openvino.engine import (
    Network,
    OpenVINOAutoencoder,
    OpenVINOTextEncoder,
    Settings,
)
from ssd1b.models.device import Placement
from ssd1b.models.encoders import TextStack, load_tokenizers
from ssd1b.plan.shape import shape_of

if TYPE_CHECKING:
    from collections.abc import Mapping

# Memory over the bytes of the weight files: float16 is computed with as float32 and packed anew for the
# processor, eight-bit weights stay as they are. Measured on SSD-1B at 512x512, activations included.
_MEMORY_PER_BYTE = {"fp16": 3.0, "int8": 2.2}


def read_export(name: str, folder: Path, settings: Settings | None = None, why: str = "") -> Model:
    """Read an export folder; nothing is compiled yet. `why` says why OpenVINO runs it.

    Raises:
        RequestError: OpenVINO is not installed, or the machine has too little memory for this model.
        MissingFileError, DamagedFileError, LayoutError: the folder is not a complete export.
    """
    needed()
    record = read_record(folder)
    settings = (settings or Settings()).settled(eight_bits=record.precision == "int8")
    _refuse_too_large(name, folder, record)
    config = read_json(folder / "unet" / "config.json")
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    index = read_json(folder / "model_index.json")
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    shape, guidance_channels = shape_of(config), _guidance_channels(config)
    exact = replace(settings, precision="f32")  # text encoders run once a picture and cost little
    networks = {
        part: Network(folder / part, settings if part == "vae_decoder" else exact) for part in NETWORKS
    }
    takes_guidance = guidance_channels is not None
    return Model(
        name=name,
        folder=folder,
        denoiser=denoiser_of(folder / "unet", settings, guidance_channels),
        vae=OpenVINOAutoencoder(
            networks["vae_encoder"],
            networks["vae_decoder"],
            read_json(folder / "vae_decoder" / "config.json"),
        ),
        text=_text_stack(folder, networks),
        scheduler_config=scheduler_config,
        shape=shape,
        defaults=defaults_of(shape, scheduler_config, takes_guidance=takes_guidance, manifest=manifest),
        placement=Placement(torch.device("cpu"), torch.float32, _reason(record, settings, why)),
        engine=f"openvino {record.precision}",
        zero_negative=bool(index.get("force_zeros_for_empty_prompt", True)),
        takes_guidance=takes_guidance,
    )


def _text_stack(folder: Path, networks: Mapping[str, Network]) -> TextStack:
    """Both tokenizers and both text encoders."""
    encoders = (_text(folder, "text_encoder", networks), _text(folder, "text_encoder_2", networks))
    return TextStack(load_tokenizers(folder), encoders)


def _guidance_channels(config: Mapping[str, object]) -> int | None:
    """How many numbers tell the guidance scale to a UNet that takes it as an input; None for others."""
    said = config.get("time_cond_proj_dim")
    return int(said) if isinstance(said, int) else None


def _text(folder: Path, part: str, networks: Mapping[str, Network]) -> OpenVINOTextEncoder:
    config: Mapping[str, Any] = read_json(folder / part / "config.json")
    pooled = "text_embeds" if part == "text_encoder_2" else "pooler_output"
    return OpenVINOTextEncoder(networks[part], int(config["num_hidden_layers"]), pooled)


def _reason(record: Record, settings: Settings, why: str) -> str:
    numbers = {"fp16": settings.precision, "int8": f"int8, the rest {settings.precision}"}[record.precision]
    return f"{settings.device} by OpenVINO {version()} ({numbers}{'; ' if why else ''}{why})"


def _refuse_too_large(name: str, folder: Path, record: Record) -> None:
    """Before gigabytes are read: the largest network must fit beside what runs already."""
    weights = max((folder / part / IR_WEIGHTS).stat().st_size for part in NETWORKS)
    need, free = weights * _MEMORY_PER_BYTE[record.precision], psutil.virtual_memory().available
    if need > free:
        advice = "" if record.precision == "int8" else " An export with --precision int8 needs a third of it."
        raise RequestError(
            f"{name} needs about {human_bytes(need)} of memory on OpenVINO ({record.precision}), and"
            f" {human_bytes(free)} are free. Close other programs.{advice}"
        )
