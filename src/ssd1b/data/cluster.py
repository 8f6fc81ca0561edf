"""The same work on a Ray cluster: one task a shard, made again elsewhere when a worker dies.

The only file that imports ray. The shards are the checkpoint: each is written whole under a name that says
what it was made from, so nothing of Ray's state has to survive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssd1b.base.errors import DataError, UserError
from ssd1b.data import needed
from ssd1b.data.runners import Heard, Work

_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True)
class Ray:
    """A cluster by its address ("auto", "ray://host:10001"), or "local" for one started here."""

    address: str
    workers: int | None = None

    def run(self, work: Work, heard: Heard) -> None:
        """Make every missing shard; dead workers' tasks are tried again by Ray.

        Raises:
            UserError: as a worker raised it.
            DataError: the cluster cannot be reached, or a shard's worker died again and again.
        """
        needed("ray")
        import ray

        missing = []
        for shard in work.shards():
            if work.is_done(shard):
                heard(work.size(shard))
            else:
                missing.append(shard)
        began = not ray.is_initialized()
        if began:
            _connect(self.address, self.workers)
        try:
            _drive(work, missing, heard)
        finally:
            if began:
                ray.shutdown()


def _connect(address: str, workers: int | None) -> None:
    import ray

    try:
        if address == "local":
            ray.init(
                "local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
            )
        else:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DataError(
            f"No Ray cluster answers at '{address}': {error}. Start one with `ray start --head`, give its"
            " address, or leave --ray out to use processes of this machine."
        ) from error


def _drive(work: Work, missing: Sequence[str], heard: Heard) -> None:
    import ray

    task = ray.remote(num_cpus=1, max_retries=5)(_make)
    limit = max(_IN_FLIGHT, _IN_FLIGHT * int(ray.cluster_resources().get("CPU", 1)))
    todo, running = list(reversed(missing)), dict[Any, str]()
    while todo or running:
        while todo and len(running) < limit:
            shard = todo.pop()
            running[task.remote(work, shard)] = shard
        ready, _ = ray.wait(list(running), num_returns=1)
        for each in ready:
            shard = running.pop(each)
            try:
                trouble = ray.get(each)
            except ray.exceptions.WorkerCrashedError as error:
                raise DataError(
                    f"The workers making shard {shard} died again and again, as they do when memory runs out."
                    " What was finished is kept; the same command goes on from there."
                ) from error
            if trouble is not None:
                raise trouble
            heard(work.size(shard))


def _make(work: Work, shard: str) -> UserError | None:
    """In a worker. What the user can fix is an answer, not a failure to be tried again."""
    try:
        if not work.is_done(shard):
            work.make(shard)
    except UserError as error:
        return error
    return None
