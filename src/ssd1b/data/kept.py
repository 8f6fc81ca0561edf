"""Pictures of a stream, kept in archives beside the manifest: `pictures/00000.tar`, one for each piece.

Plain tar files without dates or owners: the same pictures, the same bytes. Quarantined pictures are kept like
the others. Knows nothing of what they show.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from ssd1b.base.files import full_disk_named
from ssd1b.data.places import Place
from ssd1b.data.sources import Found

FOLDER = "pictures"


class Keeper:
    """Puts samples into an archive and gives them their place in it; without a shard it leaves them alone."""

    def __init__(self, out: Place, shard: str | None) -> None:
        self.out, self.name = out, f"{FOLDER}/{shard}.tar" if shard is not None else ""
        self._archive: tarfile.TarFile | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._n = 0

    def __enter__(self) -> Self:
        if self.name:
            self._folder = tempfile.TemporaryDirectory()
            self._archive = tarfile.open(
                Path(self._folder.name) / "kept.tar", "w", format=tarfile.USTAR_FORMAT
            )
        return self

    def keep(self, found: Found) -> Found:
        """The sample with the locator under which it can be read again."""
        if self._archive is None or not found.data:
            return found
        info = tarfile.TarInfo(f"{self._n:08d}")
        info.size = len(found.data)
        with full_disk_named(Path(self.out.root) / self.name):
            self._archive.addfile(info, io.BytesIO(found.data))
        self._n += 1
        blocks = -(-info.size // tarfile.BLOCKSIZE)
        offset = self._archive.offset - blocks * tarfile.BLOCKSIZE
        return replace(found, locator=f"{self.name}|{offset}|{info.size}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._archive is None or self._folder is None:
            return
        self._archive.close()
        if kind is None:
            self.out.put(Path(self._folder.name) / "kept.tar", self.name)
        self._folder.cleanup()
