"""Which pictures an eight-bit export is calibrated on.

A miniature is asked for scenes of its world, any other model for two dozen prompts of all kinds, or for what
the user's own file says. Does not know how pictures are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ssd1b.base.errors import MissingFileError, RequestError
from ssd1b.base.files import MANIFEST
from ssd1b.base.units import VAE_SCALE
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.generate.model import MINIATURE_BELOW, defaults_of
from ssd1b.generate.request import Request, request_of
from ssd1b.mini.scenes import caption, training_scene
from ssd1b.plan.shape import shape_of

_SEED = 20_000_000  # far from any seed of training or evaluation
_LARGEST_PX = 512  # statistics of activations hardly depend on the size, and a step here takes seconds


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much to calibrate on; None: 12 pictures of 10 steps for a miniature, else 4 of 8 steps."""

    prompts: Path | None = None
    pictures: int | None = None
    steps: int | None = None


def calibration_requests(source: Path, name: str, wanted: Wanted) -> list[Request]:
    """Return the requests for a diffusers folder.

    Raises:
        MissingFileError: there is no file of prompts.
        RequestError: the file says nothing, or a number is out of range.
    """
    config = read_json(source / "unet" / "config.json")
    shape = shape_of(config)
    manifest = read_json(source / MANIFEST) if (source / MANIFEST).is_file() else {}
    defaults = defaults_of(
        shape,
        read_json(source / "scheduler" / "scheduler_config.json"),
        takes_guidance=config.get("time_cond_proj_dim") is not None,
        manifest=manifest,
    )
    small = shape.sample_size < MINIATURE_BELOW
    side = min(shape.sample_size * VAE_SCALE, _LARGEST_PX)
    texts = _texts(wanted.prompts, small)
    steps = min(defaults.steps, wanted.steps or (10 if small else 8))
    return [
        request_of(
            {
                "prompt": texts[number % len(texts)],
                "width": side,
                "height": side,
                "steps": steps,
                "guidance": defaults.guidance,
                "scheduler": defaults.scheduler,
                "seed": number,
                "model": name,
            }
        )
        for number in range(wanted.pictures or (12 if small else 4))
    ]


def _texts(path: Path | None, small: bool) -> list[str]:
    if path is not None:
        if not path.is_file():
            raise MissingFileError(f"There is no file of prompts at {path}. Check the path.")
        return _lines(path.read_text(encoding="utf-8"), str(path))
    if not small:
        own = files("ssd1b.generate.openvino") / "prompts.txt"
        return _lines(own.read_text(encoding="utf-8"), "prompts.txt")
    scenes = [training_scene(_SEED, number, (128, 128)) for number in range(64)]
    return [caption(scene, number) for number, scene in enumerate(scenes)]


def _lines(text: str, where: str) -> list[str]:
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise RequestError(f"{where} holds no prompts. Write one on each line.")
    return found
