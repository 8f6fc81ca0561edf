"""Workers that make shards: one process, a pool of processes on this machine, or Ray (see `cluster`).

Work is a list of shards, each made from nothing but its name and written whole. A worker may be killed at any
moment: what it had finished is there, the rest is made by the others or by the same command run again, and
the bytes are the same. Does not know what is made.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from ssd1b.base.errors import DataError, UserError
from ssd1b.data.leases import leased
from ssd1b.data.places import Place

Heard = Callable[[int], None]
"""Hears how many more samples are done."""
_POLL_S = 0.2


class Work(Protocol):
    """Shards to be made. Sent to other processes, so it holds plain data only."""

    def shards(self) -> Sequence[str]:
        """Names of all shards, in order."""
        ...

    def size(self, shard: str) -> int:
        """How many samples a shard holds."""
        ...

    def is_done(self, shard: str) -> bool:
        """Whether the shard is there."""
        ...

    def make(self, shard: str) -> None:
        """Make the shard and write it, whole or not at all."""
        ...

    def leases(self) -> Place:
        """Where leases are kept."""
        ...


class Runner(Protocol):
    """What makes every shard of a work that is not there yet."""

    def run(self, work: Work, heard: Heard) -> None:
        """Return when all shards are there.

        Raises:
            UserError: as a worker raised it; finished shards stay.
        """
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """This process, one shard after the other."""

    def run(self, work: Work, heard: Heard) -> None:
        """Make what is missing."""
        for shard in work.shards():
            if not work.is_done(shard):
                work.make(shard)
            heard(work.size(shard))


@dataclass(frozen=True, slots=True)
class Pool:
    """Processes of this machine. Several machines may run the same command on one shared folder."""

    workers: int

    def run(self, work: Work, heard: Heard) -> None:
        """Start the workers and wait; a killed one is said and survived as long as one is left."""
        missing = []
        for shard in work.shards():
            if work.is_done(shard):
                heard(work.size(shard))
            else:
                missing.append(shard)
        if not missing:
            return
        context = multiprocessing.get_context("spawn")
        channels: dict[Connection, Any] = {}
        try:
            for number in range(min(self.workers, len(missing))):
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=_serve, args=(there, work, missing, number), daemon=True)
                process.start()
                there.close()
                channels[here] = process
            _listen(channels, work, heard)
        finally:
            for process in channels.values():
                process.kill()
                process.join()
        lost = [shard for shard in missing if not work.is_done(shard)]
        if lost:
            raise DataError(
                f"All {self.workers} workers were killed, which is what happens when memory runs out;"
                f" {len(missing) - len(lost)} of {len(missing)} shards were finished. Give fewer --workers;"
                " the same command goes on from here."
            )


def _listen(channels: dict[Connection, Any], work: Work, heard: Heard) -> None:
    """Until every worker has said goodbye or is dead."""
    waiting, told = set(channels), set()
    while waiting:
        for channel in wait(list(waiting)):
            assert isinstance(channel, Connection)
            try:
                kind, value = channel.recv()
            except EOFError:
                waiting.discard(channel)
                channels[channel].join()
                continue
            if kind == "failed":
                raise value
            if kind == "fault":
                raise RuntimeError(f"a worker failed:\n{value}")
            if value not in told:
                told.add(value)
                heard(work.size(value))


def _serve(out: Connection, work: Work, missing: Sequence[str], number: int) -> None:
    """A worker process: claim, make, say so, until nothing is missing. Ctrl-C is the parent's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        left = list(missing[number:]) + list(missing[:number])
        while left:
            still = [shard for shard in left if not _claimed(work, shard, out)]
            if len(still) == len(left):
                time.sleep(_POLL_S)
            left = still
    except UserError as error:
        out.send(("failed", error))
    except Exception:
        out.send(("fault", traceback.format_exc()))


def _claimed(work: Work, shard: str, out: Connection) -> bool:
    """Whether the shard is there now; False while another worker holds it."""
    if not work.is_done(shard):
        with leased(work.leases(), f"{shard}.lease") as mine:
            if not mine:
                return False
            if not work.is_done(shard):
                work.make(shard)
    out.send(("done", shard))
    return True
