"""Leases: which worker is making which shard, so that two seldom make the same one.

A lease only saves work. Shards are written whole and two workers making the same one write the same bytes, so
nothing goes wrong where a lease is lost, taken twice (object stores cannot create a file exclusively) or left
behind by a worker that was killed: a dead process of this machine or ten minutes of silence free it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from ssd1b.data.places import Place

SILENCE_S = 600.0
_BEAT_S = 60.0


@contextmanager
def leased(place: Place, name: str) -> Iterator[bool]:
    """Inside the `with`, this process holds the lease; False says that another live worker does."""
    if not _take(place, name):
        yield False
        return
    done = threading.Event()
    beat = threading.Thread(target=_keep_alive, args=(place, name, done), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        done.set()
        beat.join()
        with suppress(FileNotFoundError):
            place.remove(name)


def _take(place: Place, name: str) -> bool:
    if place.exists(name):
        if _alive(place, name):
            return False
        with suppress(FileNotFoundError):
            place.remove(name)
    folder = place.local
    if folder is None:
        place.write(name, _mine())
        return True
    # A file with its content, created only if none is there: link() does both in one step.
    path = folder / name
    own = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    own.write_bytes(_mine())
    try:
        os.link(own, path)
    except FileExistsError:
        return False
    finally:
        own.unlink()
    return True


def _alive(place: Place, name: str) -> bool:
    """Whether the holder of a lease may still be at work."""
    try:
        told = json.loads(place.read(name))
        host, pid, born, beat = told["host"], int(told["pid"]), float(told["born"]), float(told["beat"])
    except Exception:  # gone meanwhile, or not a lease: nobody holds it
        return False
    if host == socket.gethostname():
        try:
            holder = psutil.Process(pid)
            same = abs(holder.create_time() - born) < 1.0
            return bool(same and holder.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False
    return time.time() - beat < SILENCE_S


def _mine() -> bytes:
    born = psutil.Process().create_time()
    told = {"host": socket.gethostname(), "pid": os.getpid(), "born": born, "beat": time.time()}
    return json.dumps(told).encode()


def _keep_alive(place: Place, name: str, done: threading.Event) -> None:
    while not done.wait(_BEAT_S):
        place.write(name, _mine())
