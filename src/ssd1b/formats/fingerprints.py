"""SHA-256 of a model's weight files, counted in the background while they are copied.

A file in the hub's cache is named by its hash already, which huggingface_hub verified. Knows no models.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

_CHUNK_BYTES = 1 << 20
_MOST_THREADS = 4  # SDXL has four weight files; hashing lets go of the interpreter's lock
_SHA256 = re.compile(r"[0-9a-f]{64}")


@contextmanager
def hashing(files: Iterable[Path]) -> Iterator[Mapping[Path, Future[str]]]:
    """Start counting; the value of each file is a future. Leaving by an exception stops it."""
    stop = Event()
    largest_first = sorted(files, key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="sha256") as workers:
        try:
            yield {path: workers.submit(_sha256, path, stop) for path in largest_first}
        except BaseException:
            stop.set()
            raise


def _sha256(path: Path, stop: Event) -> str:
    blob = path.resolve()
    if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
        return blob.name
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while not stop.is_set() and (n_read := file.readinto(buffer)):
            digest.update(buffer[:n_read])
    return digest.hexdigest()
