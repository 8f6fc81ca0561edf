"""Which device and number format a model runs in, and why.

Does not know any model: it looks at the machine and at what the user asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from ssd1b.base.errors import RequestError, did_you_mean

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model lives (`device`), in which numbers (`dtype`), and one sentence saying why."""

    device: torch.device
    dtype: torch.dtype
    reason: str


def choose(device: str | None = None, dtype: str | None = None) -> Placement:
    """Pick device and dtype; `None` or "auto" leaves the choice to this machine.

    Raises:
        RequestError: a device this machine does not have, or a dtype nobody knows.
    """
    where, why_device = _device(device)
    numbers, why_dtype = _dtype(dtype, where)
    return Placement(where, numbers, f"{where} ({why_device}), {_name(numbers)} ({why_dtype})")


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _device(asked: str | None) -> tuple[torch.device, str]:
    if asked not in (None, "auto"):
        return _asked_device(str(asked)), "asked for"
    if torch.cuda.is_available():
        return torch.device("cuda"), f"found {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return torch.device("mps"), "found Apple graphics"
    return torch.device("cpu"), "no graphics card that torch can use"


def _asked_device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in present:
        hint = did_you_mean(kind, present) or " Known devices: auto, cpu, cuda, mps."
        raise RequestError(f"No device is called '{name}'.{hint}")
    if not present[kind]:
        raise RequestError(
            f"Device '{name}' was asked for, but torch {torch.__version__} as installed here cannot use it. "
            "Leave --device out to let the machine choose, or install a torch build for that device."
        )
    if index and not index.isdecimal():
        raise RequestError(f"Device '{name}' does not end in a number. Write it like 'cuda:0'.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise RequestError(f"Device '{name}' does not exist: this machine has {torch.cuda.device_count()}.")
    return torch.device(name)


def _dtype(asked: str | None, device: torch.device) -> tuple[torch.dtype, str]:
    if asked not in (None, "auto"):
        name = str(asked).lower()
        if name not in DTYPES:
            hint = did_you_mean(name, DTYPES) or f" Known: {', '.join(DTYPES)}."
            raise RequestError(f"No number format is called '{asked}'.{hint}")
        return DTYPES[name], "asked for"
    if device.type in ("cuda", "mps"):
        return torch.float16, "half the memory, the format SSD-1B is published in"
    return torch.float32, "processors compute it fastest and exactly"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
