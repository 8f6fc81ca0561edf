"""What a path holds, judged by content: a diffusers folder or a single-file checkpoint, and its layout.

Knows the readers and the catalog of layouts; writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssd1b.base.errors import MissingFileError
from ssd1b.formats.diffusers_folder import open_folder
from ssd1b.formats.pipeline import MODEL_INDEX, Pipeline
from ssd1b.formats.single_file import open_single_file
from ssd1b.formats.unet_layout import layout_name
from ssd1b.plan.shape import UNetShape, shape_of


@dataclass(frozen=True, slots=True)
class Layout:
    """What was found: `kind` is "diffusers folder" or "single file", `plan` the catalog's name, if any."""

    kind: str
    shape: UNetShape
    plan: str | None


def detect(path: Path, *, variant: str | None = None) -> Layout:
    """Look at headers and configs only, and say what the model at `path` is.

    Raises:
        UserError: as `open_model` does.
    """
    pipeline = open_model(path, variant=variant)
    shape = shape_of(pipeline.unet_config)
    return Layout(pipeline.kind, shape, layout_name(shape))


def open_model(path: Path, *, variant: str | None = None) -> Pipeline:
    """Open a model on disk, whichever of the two kinds it is.

    Raises:
        MissingFileError: nothing is there, or something is missing in it.
        DamagedFileError: a file is cut short or is not what it claims to be.
        LayoutError: it is no model of the SDXL family.
    """
    if path.is_file():
        return open_single_file(path)
    if not path.is_dir():
        raise MissingFileError(f"There is no folder or file {path}. Check the path.")
    if (path / MODEL_INDEX).is_file():
        return open_folder(path, variant=variant)
    files = sorted(found.name for found in path.glob("*.safetensors"))
    if (path / "config.json").is_file():
        hint = "It holds one model on its own; give the folder above it"
    elif files:
        hint = f"It holds {files[0]}; if that is a single-file checkpoint, give the path of the file itself"
    else:
        hint = "Give the folder of a complete diffusers pipeline"
    raise MissingFileError(f"{path} is a folder without {MODEL_INDEX}. {hint}.")
