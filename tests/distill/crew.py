"""Whole jobs of one or several processes, as torchrun would start them, to be killed, starved and compared.

They are forked from one process that has the imports behind it: a launch takes a second instead of twelve.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import resource
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import torch
from safetensors.torch import load_file
from tests.distill import tiny
from torch import nn

from ssd1b.base.errors import UserError
from ssd1b.distill import checkpoint
from ssd1b.distill.journal import Silent
from ssd1b.distill.ranks import Ranks, ranks
from ssd1b.distill.recipe import Stage
from ssd1b.distill.stages import Providers, carry_out
from ssd1b.distill.step import Objective
from ssd1b.distill.trainer import Stopping, stopping_on_signals
from ssd1b.evaluate.previews import Live
from ssd1b.generate.engines import Conditioning
from ssd1b.generate.engines.torch import TorchDenoiser
from ssd1b.models.batch import Batch, Caption

ROOT = Path(__file__).parents[2]
UNET = "unet/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Job:
    """A run and what is to happen to it."""

    folder: Path
    stages: tuple[Stage, ...]
    stop_at: int = 0  # the last rank alone is asked to stop, so that this step of the stage is the last
    poison: tuple[int, ...] = ()  # global batches whose first sample is not a number
    largest_file: int = 0  # bytes; 0 is no limit
    drawn: bool = False  # previews are drawn where the stages ask for them
    even: bool = False  # on the teacher that two processes can halve cleanly
    environment: Mapping[str, str] = field(default_factory=dict)


class Watching(Silent):
    """Prints what it is told, and asks for a stop when the time has come."""

    def __init__(self, stopping: Stopping, stop_at: int) -> None:
        self.stopping, self.stop_at = stopping, stop_at

    def stage_begins(self, stage: str, step: int, steps: int) -> None:
        self.stepped(stage, step)

    def stepped(self, stage: str, step: int) -> None:
        print("stepped", step, flush=True)
        if step == self.stop_at - 1:
            self.stopping.ask()

    def said(self, sentence: str) -> None:
        print(sentence, flush=True)


class Recording:
    """Tiny batches that write down who asked for which samples, and may be poisoned."""

    def __init__(self, source: tiny.TinyBatches, job: Job) -> None:
        self.source, self.job = source, job

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        batch = self.source.batch_at(step, rank, world)
        with (self.job.folder / "ids.jsonl").open("a") as file:
            file.write(json.dumps([step, *batch.ids]) + "\n")
        if step in self.job.poison and rank == 0:
            batch.latent_BCHW[0] = float("nan")
        return batch

    def empty(self) -> Caption:
        return self.source.empty()


class Drawing:
    """Calls both UNets as previews do: once on every process, inside inference mode."""

    def draw(self, student: nn.Module, objective: Objective, total: int) -> None:
        batch = tiny.TinyBatches(1).batch_at(0)
        cond = Conditioning(batch.context_BTC, batch.pooled_BC, batch.time_ids_B6)
        with torch.inference_mode():
            for unet in filter(None, (student, objective.teacher)):
                live = Live(TorchDenoiser(unet, at_once=2))
                assert live.predict_noise(batch.latent_BCHW, torch.tensor([9]), cond).isfinite().all()
        print("drawn after", total, flush=True)


def carry(job: Job, processes: Ranks, stopping: Stopping) -> bool:
    """Carry out a job in this process."""
    job.folder.mkdir(parents=True, exist_ok=True)
    run = tiny.run(job.folder, *job.stages)
    source = lambda recipe, stage: Recording(tiny.TinyBatches(stage.batch, recipe.seed), job)  # noqa: E731
    last = processes.rank == processes.world - 1
    watcher = Watching(stopping, job.stop_at if last else 0)
    find = Providers(tiny.even_plan if job.even else tiny.plan, Path, source)
    previews = Drawing() if job.drawn else None
    around = {"ranks": processes, "stopping": stopping, "watcher": watcher, "previews": previews}
    return carry_out(replace(run, find=find, **around))


def launch(*jobs: Job, world: int = 1) -> list[tuple[int, str]]:
    """Carry out jobs one after the other on `world` processes; exit status and output of each process."""
    started = start(*jobs, world=world)
    return [ended(process, output) for process, output in started]


def start(*jobs: Job, world: int = 1) -> list[tuple[ForkServerProcess, Path]]:
    """Start the processes and return at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(world):
        place = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        output = jobs[0].folder.with_name(f"{jobs[0].folder.name}.rank{rank}.txt")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)
        environment = {**{key: str(value) for key, value in place.items()}, **jobs[0].environment}
        process = _warm().Process(target=_work, args=(jobs, environment, output))
        process.start()
        started.append((process, output))
    return started


def ended(process: ForkServerProcess, output: Path) -> tuple[int, str]:
    """Exit status (negative: the signal that killed it) and output of a process, once it has ended."""
    process.join(200)
    assert process.exitcode is not None, f"still running: {output.read_text()}"
    return process.exitcode, output.read_text()


def student(job: Job) -> dict[str, torch.Tensor]:
    """The finished student's weights."""
    return load_file(job.folder / "student" / UNET)


def left(job: Job) -> dict[str, torch.Tensor]:
    """All that the newest checkpoint holds, by group and name."""
    saved, _ = checkpoint.newest(job.folder / "steps", Ranks())
    assert saved is not None
    return {f"{group}/{name}": t for group in sorted(saved.groups) for name, t in saved.read(group).items()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether both hold the same names with the same bits."""
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def samples(job: Job) -> dict[int, list[str]]:
    """The samples that each global batch was made of, whoever asked for them."""
    asked: dict[int, set[str]] = {}
    for line in (job.folder / "ids.jsonl").read_text().splitlines():
        step, *ids = json.loads(line)
        asked.setdefault(step, set()).update(ids)
    return {step: sorted(asked[step]) for step in sorted(asked)}


@functools.cache
def _warm() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.distill.crew", "torch.distributed.fsdp"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *sys.path]
    )  # 3.11 preloads before it sets sys.path
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def _work(jobs: tuple[Job, ...], environment: Mapping[str, str], output: Path) -> None:
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    with ExitStack() as stack:
        processes = stack.enter_context(ranks(torch.device("cpu")))
        stopping = stack.enter_context(stopping_on_signals())
        for job in jobs:
            if job.largest_file:
                resource.setrlimit(resource.RLIMIT_FSIZE, (job.largest_file, job.largest_file))
            stopping.asked = False
            try:
                carry(job, processes, stopping)
            except UserError as error:
                print(f"{type(error).__name__}: {error}", flush=True)
                sys.exit(2)
