"""Pictures, folders, archives and works for the tests of this room."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from ssd1b.base.errors import DataError
from ssd1b.data import ingest
from ssd1b.data.ingest import Settings
from ssd1b.data.manifest import Manifest
from ssd1b.data.places import Place
from ssd1b.data.runners import Alone, Runner
from ssd1b.data.sources import Spec


def picture(number: int, size: tuple[int, int] = (128, 128)) -> Image.Image:
    """Soft blobs of colour, different for each number."""
    rng = np.random.default_rng(number)
    blobs = rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image as a file's bytes."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def folder(path: Path, n: int = 12, sizes: Sequence[tuple[int, int]] = ((128, 128), (192, 80))) -> Path:
    """A folder of `n` pictures with captions beside them."""
    path.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        data = encoded(picture(number, sizes[number % len(sizes)]))
        (path / f"{number:04d}.png").write_bytes(data)
        (path / f"{number:04d}.txt").write_text(f"thing {number % 7}")
    return path


def archive(path: Path, samples: Sequence[tuple[str, dict[str, bytes]]]) -> Path:
    """A WebDataset archive of (stem, {suffix: bytes})."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for stem, files in samples:
            for suffix, data in files.items():
                info = tarfile.TarInfo(f"{stem}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def archives(path: Path, many: int, each: int) -> Path:
    """A folder of archives as img2dataset writes them; every ninth picture is cut short."""
    for number in range(many):
        samples = []
        for row in range(each):
            index = number * each + row
            data = encoded(picture(index, ((128, 128), (144, 112), (96, 168))[index % 3]))
            told = {"caption": f"thing {index}", "key": f"{index:06d}", "clip_similarity_vitl14": 0.25}
            cut = data[: len(data) // 2] if index % 9 == 4 else data
            samples.append((f"{index:06d}", {"png": cut, "json": json.dumps(told).encode()}))
        archive(path / f"{number:05d}.tar", samples)
    return path


def settings(root: Path, kind: str = "folder", **changes: object) -> Settings:
    """Settings for the miniature's sizes; keys of the source or of the settings."""
    source = {name: changes.pop(name) for name in list(changes) if name in Spec.__dataclass_fields__}
    base = {"side_px": 128, "least_px": 64}
    return Settings(Spec(kind, str(root), **source), **{**base, **changes})


def ingested(
    root: Path, out: Path, kind: str = "folder", runner: Runner | None = None, **changes
) -> Manifest:
    """The manifest of a source."""
    return ingest.ingest(
        settings(root, kind, **changes), Place(str(out)), runner or Alone(), lambda more: None
    )


def rows(manifest: Manifest) -> dict[str, SimpleNamespace]:
    """The manifest's rows by key."""
    return {row["key"]: SimpleNamespace(**row) for row in manifest.table.to_pylist()}


def contents(path: Path) -> dict[str, bytes]:
    """Every file below a folder, but for manifest.json, which names the source's path."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    }


@dataclass(frozen=True)
class Numbers:
    """A work whose shards are files with their own name; some kill or fail the worker that makes them."""

    root: str
    many: int = 6
    deadly_once: tuple[str, ...] = ()
    deadly: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    seconds: float = 0.0

    def shards(self) -> list[str]:
        return [f"s{number}" for number in range(self.many)]

    def size(self, shard: str) -> int:
        return 10

    def is_done(self, shard: str) -> bool:
        return Place(self.root).exists(f"{shard}.txt")

    def leases(self) -> Place:
        return Place(f"{self.root}/leases")

    def make(self, shard: str) -> None:
        time.sleep(self.seconds)
        died = Path(self.root) / f"{shard}.died"
        if shard in self.deadly or (shard in self.deadly_once and not died.exists()):
            died.write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
        if shard in self.wrong:
            raise DataError(f"{shard} is wrong")
        Place(self.root).write(f"{shard}.txt", shard.encode())

    def finished(self) -> Iterator[str]:
        return (shard for shard in self.shards() if self.is_done(shard))
