"""Saving a run so that it goes on exactly where it stopped, whatever stopped it.

    steps/00000500/checkpoint.json    where in the run, and the SHA-256 of every file
                   weights/           shard-00001-….safetensors, one or more for every process that saved
                   average/ exp_avg/ exp_avg_sq/

torch.distributed.checkpoint (DCP) writes and reads in its safetensors form: every process its share, into any
other number of processes. DCP's usual form has a `.metadata` that is a pickle; this one has none, and none is
read. A checkpoint appears whole or not at all, and older ones are removed only after it is there. Knows named
tensors and the folder runs/<name>/steps/; does not know models or optimizers.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_into
from torch.distributed.checkpoint.state_dict_saver import save as save_shares

from ssd1b.base.crash import crash_point
from ssd1b.base.errors import DamagedFileError, LayoutError, MissingFileError
from ssd1b.base.files import full_disk_named, sha256_file, sync, sync_tree, write_atomic
from ssd1b.distill.ranks import Ranks
from ssd1b.distill.shards import put

_FACTS = "checkpoint.json"
_FILE_BYTES = 1 << 30  # a file is put together in memory before it is written


@dataclass(frozen=True, slots=True)
class Position:
    """Where in a run: stage (from 0), steps done in it, steps done in the run, steps of the stage skipped."""

    stage: int
    step: int
    total: int
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint whose files were found sound. Groups: weights, average, exp_avg, exp_avg_sq."""

    path: Path
    position: Position
    groups: frozenset[str]

    def read(self, group: str) -> dict[str, Tensor]:
        """A group's whole tensors, in this process alone."""
        if self._is_old:
            return load_file(self._old_file(group))
        kinds = self._metadata(group)
        tensors = {
            name: torch.empty(facts.size, dtype=facts.properties.dtype) for name, facts in kinds.items()
        }
        self.fill(group, tensors, Ranks())
        return tensors

    @torch.no_grad()
    def fill(self, group: str, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
        """Read a group into tensors that are there, in place; where they lie in shares, each its share.

        Raises:
            LayoutError: the group's names or shapes are others.
        """
        there, here = self._shapes(group), {name: tensor.shape for name, tensor in tensors.items()}
        if there != here:
            odd = next(name for name in sorted({*there, *here}) if there.get(name) != here.get(name))
            raise LayoutError(
                f"The checkpoint {self.path} is of another student: '{odd}' is {_said(there.get(odd))} there"
                f" and {_said(here.get(odd))} in this recipe. Give another --out, or the recipe that the run"
                " began with."
            )
        if self._is_old:
            for name, content in load_file(self._old_file(group)).items():
                put(tensors[name], content)
            return
        with _quietly():
            reader = HuggingFaceStorageReader(str(self.path / group))
            load_into(dict(tensors), storage_reader=reader, no_dist=ranks.world == 1)

    @property
    def _is_old(self) -> bool:
        """Whether it is of the kind that version 0.1 wrote: one file per group, by one process."""
        return self._old_file("weights").is_file()

    def _old_file(self, group: str) -> Path:
        return self.path / f"{group}.safetensors"

    def _shapes(self, group: str) -> dict[str, torch.Size]:
        if self._is_old:
            return {name: tensor.shape for name, tensor in load_file(self._old_file(group)).items()}
        return {name: facts.size for name, facts in self._metadata(group).items()}

    def _metadata(self, group: str) -> dict[str, TensorStorageMetadata]:
        found = HuggingFaceStorageReader(str(self.path / group)).read_metadata().state_dict_metadata
        return {name: facts for name, facts in found.items() if isinstance(facts, TensorStorageMetadata)}


@dataclass(frozen=True, slots=True)
class Keeping:
    """Which checkpoints stay: the `newest` so many, and those that are a `milestone`."""

    newest: int = 2
    milestone: bool = False


def save(
    position: Position,
    groups: Mapping[str, Mapping[str, Tensor]],
    folder: Path,
    keeping: Keeping,
    ranks: Ranks,
) -> Path:
    """Write a checkpoint under `folder`, every process its share, then remove those that need not stay.

    Raises:
        DiskFullError: no space; the older checkpoints are still there.
        MissingFileError: the processes do not see one folder.
    """
    path = folder / f"{position.total:08d}"
    part = path.with_name(f"{path.name}.part")
    with full_disk_named(path), _gone_on_failure(part, ranks):
        with ranks.together():
            if ranks.leads:
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(parents=True)
        crash_point("checkpoint: begun")
        for group, tensors in groups.items():
            _write_share(part / group, tensors, ranks)
            crash_point(f"checkpoint: {group} written")
        with ranks.together():
            mine = {str(file.relative_to(part)): sha256_file(file) for file in _own_files(part, ranks)}
        files = {name: digest for share in ranks.gather(mine) for name, digest in share.items()}
        with ranks.together():
            if ranks.leads:
                _finish(part, path, {**asdict(position), "milestone": keeping.milestone, "files": files})
    if ranks.leads:
        _prune(folder, position.total, keeping.newest)
    ranks.wait()
    return path


def newest(folder: Path, ranks: Ranks) -> tuple[Saved | None, list[str]]:
    """The newest sound checkpoint, and one sentence about each damaged one that was passed over.

    The processes share the work of hashing and come to one answer.

    Raises:
        DamagedFileError: there are checkpoints and none is sound.
    """
    complaints: list[str] = []
    for path in reversed(ranks.gather(list(_finished(folder)))[0]):
        try:
            saved, trouble = opened(path, ranks), None
        except DamagedFileError as error:
            saved, trouble = None, str(error)
        troubles = [one for one in ranks.gather(trouble) if one]
        if saved is not None and not troubles:
            return saved, complaints
        complaints.append(troubles[0])
    if complaints:
        said = " ".join(complaints)
        raise DamagedFileError(f"{said} No older one is left; remove {folder} to start again.")
    return None, []


def opened(path: Path, ranks: Ranks | None = None) -> Saved:
    """A checkpoint, its files checked against their hashes; of several `ranks` each checks its share.

    Raises:
        DamagedFileError: a file is missing, cut short or changed; the file is named.
    """
    facts = _facts(path)
    try:
        files: dict[str, str] = dict(facts["files"])  # type: ignore[call-overload]
        position = Position(*(int(str(facts.get(key, 0))) for key in ("stage", "step", "total", "skipped")))
    except (KeyError, ValueError, TypeError):
        raise DamagedFileError(f"The checkpoint {path} has no readable {_FACTS}.") from None
    who = ranks or Ranks()
    for name in sorted(files)[who.rank :: who.world]:
        if not (path / name).is_file() or sha256_file(path / name) != files[name]:
            raise DamagedFileError(f"The checkpoint file {path / name} is missing or damaged.")
    return Saved(
        path, position, frozenset(name.partition("/")[0].removesuffix(".safetensors") for name in files)
    )


def tidy(folder: Path) -> None:
    """Remove what a crash left half written or half removed."""
    for leftover in folder.glob("*.part"):
        shutil.rmtree(leftover)


def _write_share(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Write this process's share of a group; a failure of any process is raised in all."""
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    number, size, file_of = 1, 0, {}
    for name, tensor in plain.items():
        if size > _FILE_BYTES:
            number, size = number + 1, 0
        size += tensor.numel() * tensor.element_size()
        file_of[name] = number
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=file_of, save_distributed=True)
    try:
        with _quietly():
            save_shares(plain, storage_writer=writer, no_dist=ranks.world == 1)
    except CheckpointException as failed:
        first = next(iter(failed.failures.values()))[0]
        if isinstance(first, OSError):
            raise first from None
        raise


def _own_files(part: Path, ranks: Ranks) -> list[Path]:
    return sorted(part.glob(f"*/shard-{ranks.rank + 1:05d}-*.safetensors"))


def _finish(part: Path, path: Path, facts: Mapping[str, object]) -> None:
    """Give a checkpoint whose shares are all there its list of files and its name."""
    seen = {str(file.relative_to(part)) for file in part.glob("*/*")}
    if missing := sorted(set(dict(facts["files"])) - seen):  # type: ignore[call-overload]
        raise MissingFileError(
            f"{part / missing[0]} was written by another process and cannot be seen here. All processes of a"
            " run need the same run folder: put it on a file system that all machines share."
        )
    write_atomic(part / _FACTS, json.dumps(facts, indent=1))
    sync_tree(part)
    crash_point("checkpoint: listed")
    if path.exists():  # only a damaged one can be in the way: a sound one would have been gone on from
        shutil.rmtree(path)
    part.replace(path)
    crash_point("checkpoint: renamed")
    sync(path.parent)


def _prune(folder: Path, total: int, keep: int) -> None:
    """Remove all but the `keep` newest and the milestones, and what is newer than `total`: damaged ones."""
    whole = list(_finished(folder))
    ours = [path for path in whole if int(path.name) <= total]
    stale = [path for path in ours[:-keep] if not _is_milestone(path)]
    for path in [*stale, *(path for path in whole if int(path.name) > total)]:
        path.replace(path.with_name(f"{path.name}.part"))
        crash_point("checkpoint: old one being removed")
    tidy(folder)


def _is_milestone(path: Path) -> bool:
    try:
        return bool(_facts(path).get("milestone"))
    except DamagedFileError:
        return False


def _facts(path: Path) -> dict[str, object]:
    try:
        facts: object = json.loads((path / _FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = None
    if not isinstance(facts, dict):
        raise DamagedFileError(f"The checkpoint {path} has no readable {_FACTS}.")
    return facts


def _finished(folder: Path) -> Iterator[Path]:
    """Whole checkpoints, oldest first."""
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.name.isdigit() and path.is_dir())


@contextmanager
def _gone_on_failure(part: Path, ranks: Ranks) -> Iterator[None]:
    """Leave no half-written checkpoint behind: it would fill the disk that is full already."""
    try:
        yield
    except BaseException:
        if ranks.leads:
            shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def _quietly() -> Iterator[None]:
    """DCP warns each time that it works in one process, which is what was asked of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed.checkpoint")
        yield


def _said(shape: torch.Size | None) -> str:
    return "absent" if shape is None else "×".join(map(str, shape)) or "a number"
