"""Schedulers by the names people use, made from a model's own noise schedule.

Does not know the denoising loop. Every scheduler here takes one UNet call a step; of "DPM++ SDE", whose steps
need two calls elsewhere, a step is half of one of theirs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssd1b.base.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to walk from noise to picture: the diffusers class, what is set on it, its name elsewhere."""

    class_name: str
    a1111_name: str
    settings: Mapping[str, object] = field(default_factory=dict)


_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False}
_DPM_KARRAS = {**_DPM, "use_karras_sigmas": True}
_SDE = {
    "algorithm_type": "sde-dpmsolver++",
    "solver_order": 2,
    "use_karras_sigmas": False,
    "lower_order_final": True,
}
KINDS: dict[str, Kind] = {
    "euler":           Kind("EulerDiscreteScheduler", "Euler"),
    "euler-a":         Kind("EulerAncestralDiscreteScheduler", "Euler a"),
    "dpm++-2m":        Kind("DPMSolverMultistepScheduler", "DPM++ 2M", _DPM),
    "dpm++-2m-karras": Kind("DPMSolverMultistepScheduler", "DPM++ 2M Karras", _DPM_KARRAS),
    "dpm++-sde":       Kind("DPMSolverSinglestepScheduler", "DPM++ SDE", _SDE),
    "ddim":            Kind("DDIMScheduler", "DDIM", {"clip_sample": False, "set_alpha_to_one": False}),
    "unipc":           Kind("UniPCMultistepScheduler", "UniPC"),
    "lcm":             Kind("LCMScheduler", "LCM", {"clip_sample": False}),
}  # fmt: skip
NAMES: tuple[str, ...] = tuple(KINDS)


def kind_of(name: str) -> Kind:
    """Return the scheduler called `name`.

    Raises:
        RequestError: nobody knows that name; the nearest is suggested.
    """
    if name not in KINDS:
        hint = did_you_mean(name, KINDS) or f" Known: {', '.join(KINDS)}."
        raise RequestError(f"No scheduler is called '{name}'.{hint}")
    return KINDS[name]


def own_name(config: Mapping[str, object]) -> str:
    """Return the name of the scheduler a model was published with; "euler" where we have no name for it."""
    for name, kind in KINDS.items():
        same = all(config.get(key) == value for key, value in kind.settings.items() if key != "clip_sample")
        if kind.class_name == config.get("_class_name") and same:
            return name
    names = [name for name, kind in KINDS.items() if kind.class_name == config.get("_class_name")]
    return names[0] if names else "euler"


def build(
    name: str, config: Mapping[str, object], steps: int, device: torch.device | None = None
) -> SchedulerMixin:
    """Make a fresh scheduler with its timesteps set; schedulers hold state, so every run wants its own.

    Args:
        name: one of `NAMES`.
        config: scheduler_config.json of the model, as a mapping.
        steps: how many UNet calls.
        device: where the timesteps are wanted.

    Raises:
        RequestError: an unknown name, or more steps than the scheduler has.
    """
    import diffusers

    kind = kind_of(name)
    with _without_remarks():
        scheduler = getattr(diffusers, kind.class_name).from_config(dict(config), **kind.settings)
        try:
            scheduler.set_timesteps(steps, device=device)
        except ValueError as error:
            raise RequestError(f"Scheduler '{name}' cannot take {steps} steps: {error}") from error
    return scheduler


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Without diffusers' remarks on config fields that one scheduler has and another lacks (as expected).

    Nor with numpy's on how diffusers 0.42 turns tensors into arrays, which is not ours to put right.
    """
    logger = logging.getLogger("diffusers.configuration_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
