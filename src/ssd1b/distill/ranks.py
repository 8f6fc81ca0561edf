"""Several processes training one student: averages, agreement, failing together, and who writes.

Knows torch.distributed under torchrun (gloo on processors, nccl on GPUs); with one process everything
here is free. Does not know models, losses or files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ssd1b.base.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among `world` processes."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process logs and saves."""
        return self.rank == 0

    def average_(self, values: Tensor) -> None:
        """Replace a flat tensor by its mean over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world

    def add_(self, values: Tensor) -> None:
        """Replace a tensor by its sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)

    def gather(self, value: Value) -> list[Value]:
        """What every process has for `value`, by rank; small things only."""
        if self.world == 1:
            return [value]
        found: list[Value] = [value] * self.world
        dist.all_gather_object(found, value)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside the `with` every process does its part; at its end all go on or all raise.

        So nobody waits for a process that has failed.

        Raises:
            UserError: another process failed, and how. What fails here is raised as it is.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        said = self.gather(None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        for rank, words in enumerate(said):
            if words is not None:
                raise UserError(f"The process of rank {rank} failed, so all stop. {words}")

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            dist.barrier()


def own_device(device: torch.device) -> torch.device:
    """This process's GPU of its machine, where torchrun started one process per GPU; else `device`."""
    if str(device) != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    return own


@contextmanager
def ranks(device: torch.device) -> Iterator[Ranks]:
    """The process group torchrun asks for, taken down at the end; a single process if started plainly."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
