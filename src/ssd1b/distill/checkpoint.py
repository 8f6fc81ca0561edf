"""Saving a run so that it goes on exactly where it stopped, whatever stopped it.

Knows named tensors and the folder runs/<name>/steps/. A checkpoint appears whole or not at all, carries
the hashes of its files, and older ones are removed only after it is there. Does not know models or
optimizers; no pickle is written or read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from ssd1b.base.errors import DamagedFileError
from ssd1b.base.files import finished_folder, sha256_file

_FACTS = "checkpoint.json"


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a run: stage (from 0), steps done in it, steps done in the run."""

    stage: int
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that changes during training. `tensors` by group: weights, average, exp_avg, exp_avg_sq."""

    position: Position
    tensors: Mapping[str, Mapping[str, Tensor]]


def save(checkpoint: Checkpoint, folder: Path, keep: int) -> Path:
    """Write a checkpoint under `folder`, then remove all but the `keep` newest.

    Raises:
        DiskFullError: no space; the older checkpoints are still there.
    """
    position = checkpoint.position
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{position.total:08d}"
    with finished_folder(path, replace=True) as building:
        files = {}
        for group, tensors in checkpoint.tensors.items():
            file = building / f"{group}.safetensors"
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
            files[file.name] = sha256_file(file)
        facts = {"stage": position.stage, "step": position.step, "total": position.total, "files": files}
        (building / _FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    for old in list(_finished(folder))[:-keep]:
        shutil.rmtree(old)
    return path


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint, and one sentence about each damaged one that was passed over.

    Raises:
        DamagedFileError: there are checkpoints and none is sound.
    """
    complaints: list[str] = []
    for path in reversed(list(_finished(folder))):
        try:
            return load(path), complaints
        except DamagedFileError as error:
            complaints.append(str(error))
    if complaints:
        said = " ".join(complaints)
        raise DamagedFileError(f"{said} No older one is left; remove {folder} to start again.")
    return None, []


def load(path: Path) -> Checkpoint:
    """Read one checkpoint and check its files against their hashes.

    Raises:
        DamagedFileError: a file is missing, cut short or changed; the file is named.
    """
    try:
        facts = json.loads((path / _FACTS).read_text(encoding="utf-8"))
        files: dict[str, str] = facts["files"]
        position = Position(facts["stage"], facts["step"], facts["total"])
    except (OSError, ValueError, KeyError):
        raise DamagedFileError(f"The checkpoint {path} has no readable {_FACTS}.") from None
    for name, digest in files.items():
        if not (path / name).is_file() or sha256_file(path / name) != digest:
            raise DamagedFileError(f"The checkpoint file {path / name} is missing or damaged.")
    return Checkpoint(position, {Path(name).stem: load_file(path / name) for name in files})


def _finished(folder: Path) -> Iterator[Path]:
    """Whole checkpoints, oldest first."""
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.name.isdigit() and path.is_dir())
