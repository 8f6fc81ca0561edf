"""A folder on a disk or in an object store, with the few things that are done to it.

A local path, or any URL that fsspec knows (s3://, gs://, memory://). What is written appears whole or not at
all: by a rename on a disk, by the put itself in an object store. Knows no pictures.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from ssd1b.base.errors import MissingFileError
from ssd1b.base.files import cache_folder, full_disk_named, sha256_text, write_atomic


@dataclass(frozen=True, slots=True)
class Place:
    """A root under which files have names with slashes. Cheap to make, safe to send to another process."""

    root: str

    @property
    def local(self) -> Path | None:
        """The folder's path where it is on a disk of this machine, else None."""
        system, path = _opened(self.root)
        return Path(path) if "file" in _protocols(system) else None

    def files(self, under: str = "") -> Iterator[tuple[str, int]]:
        """Name and bytes of every file below, sorted by name; hidden files and folders are left out."""
        system, root = _opened(self.root)
        start = self._path(under) if under else root
        found = system.find(start, detail=True)
        base = len(root.rstrip("/")) + 1
        for path in sorted(found):
            name = path[base:]
            if not any(part.startswith(".") for part in name.split("/")):
                yield name, int(found[path]["size"] or 0)

    def exists(self, name: str = "") -> bool:
        """Whether a file or folder is there."""
        system, _ = _opened(self.root)
        return bool(system.exists(self._path(name)))

    def read(self, name: str) -> bytes:
        """All bytes of a file.

        Raises:
            MissingFileError: there is no such file.
        """
        with self.opened(name) as file:
            return file.read()

    def read_part(self, name: str, offset: int, n_bytes: int) -> bytes:
        """`n_bytes` bytes from `offset` on; fewer where the file ends."""
        with self.opened(name) as file:
            file.seek(offset)
            return file.read(n_bytes)

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """A file open for reading in bytes."""
        system, _ = _opened(self.root)
        try:
            file = system.open(self._path(name), "rb")
        except FileNotFoundError:
            raise MissingFileError(f"There is no file {name} in {self.root}. Check the path.") from None
        with file:
            yield cast(BinaryIO, file)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        system, _ = _opened(self.root)
        return int(system.size(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all; folders are made, what was there gives way.

        Two workers may write the same file at once: each writes a file of its own and renames it.

        Raises:
            DiskFullError: no room left.
        """
        folder = self.local
        if folder is None:
            system, _ = _opened(self.root)
            system.makedirs(system._parent(self._path(name)), exist_ok=True)
            system.pipe_file(self._path(name), data)
            return
        path = folder / name
        mine = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}")
        write_atomic(mine, data)
        mine.replace(path)

    def put(self, source: Path, name: str) -> None:
        """Move a finished local file here, whole or not at all."""
        folder = self.local
        if folder is None:
            system, _ = _opened(self.root)
            system.makedirs(system._parent(self._path(name)), exist_ok=True)
            system.put_file(str(source), self._path(name))
            source.unlink()
            return
        path = folder / name
        mine = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.part")
        with full_disk_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, mine)
            mine.replace(path)

    def remove(self, name: str) -> None:
        """Remove a file or a whole folder, if it is there."""
        system, _ = _opened(self.root)
        if system.exists(self._path(name)):
            system.rm(self._path(name), recursive=True)

    def fetched(self, name: str) -> Path:
        """A file as a path on this machine; what lies elsewhere is copied to the cache folder once."""
        folder = self.local
        if folder is not None:
            return folder / name
        path = cache_folder() / "data" / sha256_text(f"{self.root} {name}")[:16] / Path(name).name
        if not path.is_file() or path.stat().st_size != self.size(name):
            write_atomic(path, self.read(name))
        return path

    def _path(self, name: str) -> str:
        root = _opened(self.root)[1]
        return f"{root.rstrip('/')}/{name}" if name else root


@cache
def _opened(root: str) -> tuple[Any, str]:
    system, path = fsspec.core.url_to_fs(root)
    return system, str(path)


def _protocols(system: Any) -> tuple[str, ...]:  # noqa: ANN401 - fsspec has no types
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)
