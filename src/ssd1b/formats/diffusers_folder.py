"""Open a diffusers SDXL pipeline folder: which files hold its parts, plain, of a variant, or in shards.

Only headers are read, so that a missing shard or a file cut short is found before anything is written. Knows
no layer plans and writes nothing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ssd1b.base.errors import DamagedFileError, LayoutError, MissingFileError
from ssd1b.formats.pipeline import MODEL_INDEX, UNET, Part, Pipeline
from ssd1b.formats.safetensors_io import TensorFile, read_file, read_sharded
from ssd1b.formats.unet_layout import refuse_misfits
from ssd1b.plan.shape import shape_of

_STEM = r"(?P<stem>diffusion_pytorch_model|model)"
_ONE_FILE = re.compile(_STEM + r"(?:\.(?P<variant>\w+))?\.safetensors")
_INDEX = re.compile(_STEM + r"\.safetensors\.index(?:\.(?P<variant>\w+))?\.json")
_SHARD = re.compile(r".+-\d{5}-of-\d{5}(\.\w+)?\.safetensors")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_KEPT_SUFFIXES = (".json", ".txt", ".model", ".jinja")
_WITHOUT_WEIGHTS = ("Tokenizer", "TokenizerFast", "Scheduler", "Processor", "Extractor")
_FOREIGN_FILES = ("flax", "openvino", "tf_", "coreml")


def open_folder(path: Path, *, variant: str | None = None) -> Pipeline:
    """Open a diffusers pipeline folder.

    Args:
        path: the folder that holds model_index.json.
        variant: which weights to take where there are several, e.g. "fp16"; by default the plain ones.

    Raises:
        MissingFileError: a part, its weights or one of its shards is not there.
        DamagedFileError: a file is cut short, is no JSON, or is no safetensors file by content.
        LayoutError: it is not an SDXL pipeline, or weights and config of the UNet disagree.
    """
    index = read_json(path / MODEL_INDEX)
    classes = {name: str(entry[1]) for name, entry in index.items() if isinstance(entry, list) and entry[-1]}
    if not str(index.get("_class_name", "")).startswith("StableDiffusionXL") or UNET not in classes:
        raise LayoutError(
            f"{path} holds a {index.get('_class_name', 'pipeline without a name')}, and a pipeline of the"
            " SDXL family (StableDiffusionXLPipeline) is needed. Give an SDXL, SSD-1B or Vega folder."
        )
    odd = [name for name in classes if not name.isidentifier()]
    if odd:
        raise LayoutError(f"{path / MODEL_INDEX} names parts that are no folder names: {', '.join(odd)}.")
    absent = [name for name in classes if not (path / name).is_dir()]
    if absent:
        raise MissingFileError(
            f"{path} lacks the folders {', '.join(absent)}, which its {MODEL_INDEX} names. Download them too."
        )
    config = read_json(path / UNET / "config.json")
    unet, _ = find_weights(path / UNET, variant)
    sizes = {name: view.shape for name, view in unet.tensors.items()}
    refuse_misfits(sizes, shape_of(config), str(path))
    parts = tuple(_part(path / name, kind, variant) for name, kind in classes.items() if name != UNET)
    return Pipeline(path, "diffusers folder", index, unet, config, parts)


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file.

    Raises:
        MissingFileError: it is not there.
        DamagedFileError: it is no JSON object.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}. Download the model again, with all its files.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFileError(f"{path} is not valid JSON ({error}). Download it again.") from error
    if not isinstance(record, dict):
        raise DamagedFileError(f"{path} holds no JSON object. Download it again.")
    return record


def find_weights(folder: Path, variant: str | None) -> tuple[TensorFile, str]:
    """The weights of one part, and the file name they have when no variant is asked for.

    Raises:
        MissingFileError: there are none in safetensors, or shards are missing.
        DamagedFileError: they are damaged or no safetensors.
    """
    found: dict[str | None, tuple[Path, str]] = {}
    for path in sorted(folder.iterdir()):
        whole = None if _SHARD.fullmatch(path.name) else _ONE_FILE.fullmatch(path.name)
        match = whole or _INDEX.fullmatch(path.name)
        if match:
            found[match["variant"]] = (path, match["stem"])
    if not found:
        raise MissingFileError(_no_weights(folder))
    path, stem = found[_choose(folder, list(found), variant)]
    return (read_sharded(path) if path.suffix == ".json" else read_file(path)), f"{stem}.safetensors"


def _choose(folder: Path, variants: list[str | None], wanted: str | None) -> str | None:
    """Take the variant that was asked for, else the plain weights, else the only ones there are."""
    if wanted in variants:
        return wanted
    if None in variants:
        return None
    if wanted is None and len(variants) == 1:
        return variants[0]
    names = ", ".join(str(one) for one in variants)
    raise MissingFileError(f"{folder} has weights of the variants {names} only. Choose one with --variant.")


def _no_weights(folder: Path) -> str:
    names = [path.name for path in sorted(folder.iterdir())]
    if any(_SHARD.fullmatch(name) for name in names):
        return f"{folder} holds shards, but not the .safetensors.index.json that lists them. Download it too."
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        return (
            f"{folder} holds its weights as {pickles[0]} only. Pickled weights can run code when"
            " opened and are never read; use a model that has .safetensors files, or convert it first."
        )
    return f"{folder} holds no .safetensors weights. Download the model again, with all its files."


def _part(folder: Path, kind: str, variant: str | None) -> Part:
    """One component as it is to be carried over: small files and, unless it has none by nature, weights."""
    files: dict[str, Path | str] = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.suffix in _KEPT_SUFFIXES
        and ".index." not in path.name
        and not path.name.startswith(_FOREIGN_FILES)
    }
    if kind.endswith(_WITHOUT_WEIGHTS):
        return Part(folder.name, files)
    weights, name = find_weights(folder, variant)
    return Part(folder.name, files, weights, name)
