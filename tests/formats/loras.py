"""LoRA files with random factors, in the names that people find them in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from ssd1b.formats.ldm_keys import unet_to_ldm

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
STYLES = ("peft", "diffusers", "kohya", "ldm")

Changes = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Module -> (down, up)."""


def random_changes(
    network: torch.nn.Module, ends: Sequence[str] = ATTENTION, *, rank: int = 2, seed: int = 0
) -> Changes:
    """Random factors for every layer whose name ends so, small enough to leave a picture."""
    draw = torch.Generator().manual_seed(seed)
    changes = {}
    for name, module in network.named_modules():
        if not name.endswith(tuple(ends)) or not hasattr(module, "weight"):
            continue
        size = module.weight.shape
        down = torch.randn(rank, *size[1:], generator=draw) * 0.2
        up = torch.randn(size[0], rank, *(1 for _ in size[2:]), generator=draw) * 0.2
        changes[name] = (down, up)
    return changes


def write_lora(
    path: Path,
    changes: Changes,
    style: str = "peft",
    *,
    alpha: float | None = None,
    text: Mapping[str, Changes] | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write factors of the UNet, and of "text_encoder" and "text_encoder_2", under a style's names."""
    state: dict[str, torch.Tensor] = {}
    # LDM numbers layers through all blocks: it must hear of two residual blocks even where none is changed.
    ldm = unet_to_ldm(["down_blocks.0.resnets.1.conv1.weight", *(f"{module}.weight" for module in changes)])
    for part, layers in {"unet": changes, **(text or {})}.items():
        for module, (down, up) in layers.items():
            name = (
                ldm[f"{module}.weight"].removesuffix(".weight")
                if (style, part) == ("ldm", "unet")
                else module
            )
            head, ends = _named(style, part, name)
            state |= {f"{head}{ends[0]}": down.contiguous(), f"{head}{ends[1]}": up.contiguous()}
            if alpha is not None:
                state[f"{head}.alpha"] = torch.tensor(alpha)
    written = {"lora_adapter_metadata": json.dumps(dict(metadata))} if metadata else None
    save_file(state, path, metadata=written)
    return path


def _named(style: str, part: str, module: str) -> tuple[str, tuple[str, str]]:
    if style in ("kohya", "ldm"):
        short = {"unet": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}[part]
        flat = module.replace(".", "_")
        return f"lora_{short}_{flat}", (".lora_down.weight", ".lora_up.weight")
    down, up = ("lora_A", "lora_B") if style == "peft" else ("lora.down", "lora.up")
    return f"{part}.{module}", (f".{down}.weight", f".{up}.weight")
