"""The mini models inside the package, unfolded on first use into complete diffusers folders.

The package keeps each weight once and in half precision: the VAE, text encoders and tokenizers that all mini
models share, one UNet per model, for `mini-sdxl-expert` only the tensors in which it differs from
`mini-sdxl`, and the tiny decoder `mini-tiny`, which is no model but can stand in for a model's VAE. What is
unfolded into the cache is plain float32, as any diffusers program reads it. It does not know what the models
are for.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

from ssd1b.base.errors import MissingFileError, nearest
from ssd1b.base.files import cache_folder, finished_folder, sha256_file, write_manifest

NAMES = ("mini-sdxl", "mini-sdxl-expert", "mini-ssd")
PARTS = "mini-parts"
DECODERS = ("mini-tiny",)
PARTS_FOLDERS = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
WEIGHTS = "diffusion_pytorch_model.safetensors"
_UNET = f"unet/{WEIGHTS}"
_DELTA = "unet/delta.safetensors"
_ABOUT = "mini.json"


def folder(name: str) -> Path:
    """The complete diffusers folder of an embedded model (or of `mini-parts`, which has no UNet).

    For one of DECODERS it is the folder of an `AutoencoderTiny`: config.json and weights.

    Raises:
        MissingFileError: no embedded model is called that, or the package was built without it.
    """
    if name not in (*NAMES, PARTS, *DECODERS):
        close = nearest(name, (*NAMES, PARTS, *DECODERS))
        hint = f" Did you mean '{close}'?" if close else f" There are: {', '.join(NAMES)}."
        raise MissingFileError(f"No embedded model is called '{name}'.{hint}")
    with as_file(files("ssd1b.mini") / "weights") as weights:
        sources = list(_sources(weights, name))
        if not all(source.is_dir() for source in sources):
            raise MissingFileError(f"This installation was built without the embedded model '{name}'.")
        place = cache_folder() / "mini" / f"{name}-{_fingerprint(sources)}"
        if not place.is_dir():
            _make(weights, name, place)
    return place


def _make(weights: Path, name: str, place: Path) -> None:
    """Unfold into a folder of this process's own and rename; whoever comes second throws its copy away."""
    mine = place.with_name(f"{place.name}.{os.getpid()}")
    with finished_folder(mine, replace=True) as unfolded:
        _unfold(weights, name, unfolded)
        write_manifest(unfolded, command=("ssd1b", "embedded", name), inputs={}, model=name)
    try:
        mine.rename(place)
    except OSError:
        shutil.rmtree(mine)
        if not place.is_dir():
            raise


def _sources(weights: Path, name: str) -> Iterator[Path]:
    """The packed folders that a model is unfolded from."""
    if name not in DECODERS:
        yield weights / "parts"
    if name != PARTS:
        yield weights / name
    yield from _bases(weights / name)


def _bases(source: Path) -> Iterator[Path]:
    """The folder of the model that a delta refers to, if this model is one."""
    about = source / _ABOUT
    if about.is_file() and (base := json.loads(about.read_text()).get("base")):
        yield source.parent / base


def _fingerprint(sources: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for source in sources for path in source.rglob("*") if path.is_file()):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()[:12]


def _unfold(weights: Path, name: str, out: Path) -> None:
    if name in DECODERS:
        shutil.copy(weights / name / "config.json", out / "config.json")
        _write_float32([weights / name / WEIGHTS], out / WEIGHTS)
        return
    for part in PARTS_FOLDERS:
        shutil.copytree(weights / "parts" / part, out / part)
    shutil.copy(weights / "parts" / "model_index.json", out / "model_index.json")
    for path in out.rglob("*.safetensors"):
        _write_float32([path], path)
    if name == PARTS:
        return
    source, base = weights / name, next(_bases(weights / name), None)
    (out / "unet").mkdir()
    shutil.copy((base or source) / "unet/config.json", out / "unet/config.json")
    _write_float32([base / _UNET, source / _DELTA] if base else [source / _UNET], out / _UNET)
    for path in source.glob("*.json"):
        if path.name != _ABOUT:
            shutil.copy(path, out / path.name)


def _write_float32(sources: list[Path], out: Path) -> None:
    """Join safetensors files, later ones winning, and write them as float32."""
    from safetensors.torch import load_file, save_file

    tensors = {key: value for source in sources for key, value in load_file(source).items()}
    save_file({key: value.float() for key, value in tensors.items()}, out, metadata={"format": "pt"})
