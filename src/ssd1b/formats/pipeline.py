"""A complete SDXL pipeline as it lies on disk, wherever it came from, and writing one as a diffusers folder.

`diffusers_folder` and `single_file` make a `Pipeline`; `write_pipeline` writes it, with the UNet weights and
config that it is given. Knows no layer plans and no layouts of other programs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ssd1b.formats.safetensors_io import TensorFile, copy_file, write_file, written_bytes
from ssd1b.formats.views import View

UNET = "unet"
UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
MODEL_INDEX = "model_index.json"
Hear = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Part:
    """One component beside the UNet: small files (a path to copy, or their text) and weights, if it has any.

    `weights_name` is the file name that diffusers and transformers look for when no variant is asked for.
    """

    name: str
    files: Mapping[str, Path | str]
    weights: TensorFile | None = None
    weights_name: str = ""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A teacher on disk: `index` is model_index.json, `kind` "diffusers folder" or "single file"."""

    path: Path
    kind: str
    index: Mapping[str, object]
    unet: TensorFile
    unet_config: Mapping[str, object]
    parts: tuple[Part, ...]

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """Every file that weights are read from, each once."""
        files = [self.unet, *(part.weights for part in self.parts if part.weights)]
        return tuple(dict.fromkeys(path for file in files for path in file.paths))

    def carried_bytes(self, dtype: str | None = None) -> int:
        """Bytes of weights that go along beside the UNet."""
        weights = [part.weights for part in self.parts if part.weights]
        if dtype is None:
            return sum(one.paths[0].stat().st_size if one.whole else one.n_bytes for one in weights)
        return sum(written_bytes(one.tensors, dtype) for one in weights)


@dataclass(frozen=True, slots=True)
class NewUNet:
    """The UNet to write: weights, file metadata, and the text of config.json."""

    tensors: Mapping[str, View]
    metadata: Mapping[str, str]
    config_text: str


def write_pipeline(
    pipeline: Pipeline, folder: Path, unet: NewUNet, *, dtype: str | None = None, on_bytes: Hear | None = None
) -> None:
    """Write a diffusers folder: the given UNet, everything else as it is in `pipeline`.

    `dtype` ("F16", "BF16", "F32") casts all floating weights; None leaves bytes untouched. `on_bytes` hears
    of weights only, how many bytes since its last call.
    """
    home = folder / UNET
    home.mkdir(parents=True)
    (home / "config.json").write_text(unet.config_text, encoding="utf-8")
    write_file(home / UNET_WEIGHTS, unet.tensors, metadata=unet.metadata, dtype=dtype, on_bytes=on_bytes)
    for part in pipeline.parts:
        write_part(part, folder / part.name, dtype=dtype, on_bytes=on_bytes)
    (folder / MODEL_INDEX).write_text(as_json(pipeline.index), encoding="utf-8")


def write_part(part: Part, home: Path, *, dtype: str | None = None, on_bytes: Hear | None = None) -> None:
    """Write one component into its folder; weights that are one file and keep their dtype are copied."""
    home.mkdir(parents=True)
    for name, source in part.files.items():
        data = source.encode() if isinstance(source, str) else source.read_bytes()
        (home / name).write_bytes(data)
    if part.weights is None:
        return
    target = home / part.weights_name
    if part.weights.whole and dtype is None:
        copy_file(part.weights.paths[0], target, on_bytes=on_bytes)
    else:
        write_file(
            target, part.weights.tensors, metadata=part.weights.metadata, dtype=dtype, on_bytes=on_bytes
        )


def as_json(record: Mapping[str, object]) -> str:
    """A config as diffusers writes it: two blanks, sorted, a newline at the end."""
    return json.dumps(record, indent=2, sort_keys=True) + "\n"
