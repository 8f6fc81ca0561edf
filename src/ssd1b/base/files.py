"""Files that are either finished or not there: hashes, atomic writes, whole folders, manifests.

Output is written beside its destination as `<name>.part`, flushed to the disk and renamed, so that a crash, a
full disk or Ctrl-C never leaves something half-written under a good name. This module does not know what the
files contain.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from ssd1b.base.crash import crash_point
from ssd1b.base.errors import DiskFullError, MissingFileError, OutputExistsError
from ssd1b.base.units import human_bytes

MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 20
_VERSIONED = ("ssd1b", "torch", "diffusers", "transformers", "safetensors", "numpy")


def cache_folder() -> Path:
    """Where things live that can be made again: $SSD1B_CACHE, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("SSD1B_CACHE") or Path(base) / "ssd1b")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, read in chunks of 1 MiB.

    Raises:
        MissingFileError: there is no such file.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}. Check the path.")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8 as 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path`, all of it or nothing; parent folders are made.

    Raises:
        DiskFullError: no room left; the old content of `path`, if any, is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(path.name + ".part")
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            crash_point(f"{path.name}: written")
            part.replace(path)
            crash_point(f"{path.name}: renamed")
        finally:
            part.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def finished_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a fresh folder `<path>.part`; on success it becomes `path`, on any exception it is removed.

    Args:
        path: where the folder is to appear.
        replace: whether a folder that is there already gives way (only once the new one is finished).

    Raises:
        OutputExistsError: `path` is there and not empty, and `replace` was not given.
        DiskFullError: no room left.
    """
    if not replace and path.exists() and (path.is_file() or any(path.iterdir())):
        raise OutputExistsError(f"{path} is there already. Give another --out, or remove it first.")
    part, old = path.with_name(path.name + ".part"), path.with_name(path.name + ".old")
    with full_disk_named(path):
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            crash_point(f"{path.name}/: begun")
            yield part
            sync_tree(part)
            crash_point(f"{path.name}/: written")
            if path.exists():
                path.replace(old)
                crash_point(f"{path.name}/: old one moved away")
            part.replace(path)
            crash_point(f"{path.name}/: renamed")
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            if old.exists() and not path.exists():
                old.replace(path)
            raise
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn the system's "no space left" into a DiskFullError that names `path` and the room left there.

    A quota or a limit on the size of files (`ulimit -f`) counts as a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DiskFullError(
            f"The disk is full: {path} could not be written{_room_left(path)}. Nothing half-written was left"
            " behind. Free some space or give another place."
        ) from error


def write_manifest(
    folder: Path, *, command: Sequence[str], inputs: Mapping[str, str], **facts: object
) -> Path:
    """Write `manifest.json` into `folder`: where it came from, so that it can be made again.

    Args:
        folder: the folder the manifest describes.
        command: the command line that made it, word by word.
        inputs: what it was made from, a name or path each with its SHA-256 (or revision).
        facts: anything else worth keeping; must be JSON.
    """
    record = {
        "command": list(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": dict(inputs),
        "versions": versions(),
        **facts,
    }
    path = folder / MANIFEST
    write_atomic(path, json.dumps(record, indent=2, sort_keys=False) + "\n")
    return path


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers, as far as installed."""
    found = {"python": platform.python_version()}
    for package in _VERSIONED:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _room_left(path: Path) -> str:
    home = next((place for place in (path, *path.absolute().parents) if place.exists()), None)
    return f" ({human_bytes(shutil.disk_usage(home).free)} left)" if home else ""


def sync_tree(folder: Path) -> None:
    """Have a folder and all that is in it on the disk before returning."""
    for place in sorted(folder.rglob("*"), reverse=True):
        if not place.is_symlink():
            sync(place)
    sync(folder)


def sync(place: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk before returning."""
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
