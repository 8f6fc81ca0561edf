"""Files of encoded samples: safetensors with what each row is, and the index that lists them.

    index.json                     who encoded, from which manifest, and every file with its SHA-256
    1024x1024-<hash>.safetensors   rows of one bucket; the hash is over what they were made from

Does not know how the numbers are made.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssd1b.base.errors import DamagedFileError, MissingFileError
from ssd1b.data.places import Place

INDEX = "index.json"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_ABOUT = "ssd1b"
_OPEN = 256


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of an index: its name, its rows, and the group (a bucket, or "") and variant it belongs to."""

    name: str
    rows: int
    group: str
    variant: str
    sha256: str

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.name}.safetensors"


def written(tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> bytes:
    """A shard's bytes. One key of metadata only: with several their order would differ from run to run."""
    told = json.dumps(about, ensure_ascii=False, sort_keys=True)
    data: bytes = save({name: value.contiguous() for name, value in tensors.items()}, {_ABOUT: told})
    return data


def about(place: Place, file: str) -> dict[str, Any]:
    """What a shard says of its rows."""
    with _opened(place, file) as shard:
        told: dict[str, Any] = json.loads(shard.metadata()[_ABOUT])
    return told


def write_index(place: Place, facts: Mapping[str, object], shards: Sequence[Shard]) -> None:
    """Write the index: from now on the cache is complete."""
    listed = [[s.name, s.rows, s.group, s.variant, s.sha256] for s in shards]
    place.write(INDEX, (json.dumps({**facts, "shards": listed}, indent=1, sort_keys=True) + "\n").encode())


def read_index(place: Place) -> tuple[dict[str, Any], list[Shard]]:
    """The facts of an index, and its shards.

    Raises:
        MissingFileError: there is no index, so the cache is not complete.
        DamagedFileError: it is not what was written.
    """
    if not place.exists(INDEX):
        raise MissingFileError(f"There is no finished cache in {place.root}. `ssd1b data cache` makes it.")
    try:
        facts = json.loads(place.read(INDEX))
        return facts, [Shard(*each) for each in facts.pop("shards")]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(
            f"{INDEX} in {place.root} is damaged ({error}). Remove it; `ssd1b data cache` writes it again."
        ) from error


def checked(place: Place, shard: Shard) -> None:
    """Compare a shard's bytes with the index.

    Raises:
        MissingFileError: it is gone.
        DamagedFileError: it was changed or cut short.
    """
    if sha256(place.read(shard.file)).hexdigest() != shard.sha256:
        raise DamagedFileError(
            f"{shard.file} in {place.root} is damaged: its SHA-256 is not the index's. Remove the file and"
            f" {INDEX} beside it; `ssd1b data cache` makes this one again."
        )


class Rows:
    """The rows of one group and variant, numbered through all its shards."""

    def __init__(self, place: Place, shards: Sequence[Shard]) -> None:
        """Open nothing yet; files are mapped when a row is asked for, and the last ones stay open."""
        self.place, self.shards = place, tuple(shards)
        self._ends = list(accumulate(shard.rows for shard in shards))
        self._files: OrderedDict[int, tuple[Any, dict[str, Any]]] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, row: int, names: Sequence[str]) -> tuple[list[Tensor], dict[str, Any], int]:
        """The named tensors of a row, what its shard says, and the row's number in that shard."""
        number = bisect_right(self._ends, row)
        inside = row - (self._ends[number - 1] if number else 0)
        shard, told = self._file(number)
        try:
            return [shard.get_slice(name)[inside] for name in names], told, inside
        except SafetensorError as error:
            raise _damaged(self.place, self.shards[number].file, error) from error

    def _file(self, number: int) -> tuple[Any, dict[str, Any]]:
        if number in self._files:
            self._files.move_to_end(number)
            return self._files[number]
        shard = _opened(self.place, self.shards[number].file).__enter__()
        self._files[number] = shard, json.loads(shard.metadata()[_ABOUT])
        if len(self._files) > _OPEN:
            self._files.popitem(last=False)
        return self._files[number]


def _opened(place: Place, file: str) -> Any:  # noqa: ANN401 - safetensors has no types
    path = place.fetched(file)
    if not path.is_file():
        raise MissingFileError(f"{file} is gone from {place.root}. `ssd1b data cache` makes it again.")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise _damaged(place, file, error) from error


def _damaged(place: Place, file: str, error: Exception) -> DamagedFileError:
    return DamagedFileError(
        f"{file} in {place.root} is damaged ({error}). Remove it and {INDEX}; `ssd1b data cache`"
        " makes it again."
    )
