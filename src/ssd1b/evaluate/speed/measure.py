"""Engines take turns, each in a process of its own, and are timed part by part.

A process of its own gives each engine its own peak of memory, and lets engines be compared that would
disturb each other in one. Only one of them works at any time; the others wait. Does not know how a part is
run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from ssd1b.base.errors import RequestError
from ssd1b.evaluate.speed.record import Case, Timing

PARTS = ("unet", "text", "decode")


@dataclass(frozen=True, slots=True)
class Subject:
    """One model on one engine: what it is called, its folder, and the parts the engine has."""

    model: str
    engine: str
    folder: Path
    parts: tuple[str, ...] = PARTS


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure.

    Attributes:
        sizes: (width, height) in pixels.
        rounds: warm runs of each part that are counted.
        threads: of every engine.
    """

    sizes: Sequence[tuple[int, int]]
    rounds: int
    threads: int


@dataclass(slots=True)
class Worker:
    """A measuring process, from this side."""

    subject: Subject
    process: subprocess.Popen[str]
    errors: IO[str]
    laps: dict[tuple[str, tuple[int, int]], list[float]] = field(default_factory=dict)
    cold: dict[tuple[str, tuple[int, int]], float] = field(default_factory=dict)
    peak: dict[tuple[str, tuple[int, int]], int] = field(default_factory=dict)

    def run(self, part: str, px: tuple[int, int]) -> None:
        """Let it run a part once; the first time counts as cold."""
        assert self.process.stdin is not None, "it was opened with pipes"
        try:
            self.process.stdin.write(json.dumps({"part": part, "px": px}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        told, key = self.answer(), (part, px)
        if key in self.cold:
            self.laps.setdefault(key, []).append(told["seconds"])
        else:
            self.cold[key] = told["seconds"]
        self.peak[key] = int(told["peak_bytes"])

    def answer(self) -> dict[str, float]:
        """Wait for its next line.

        Raises:
            RequestError: it died, most likely for want of memory.
        """
        assert self.process.stdout is not None, "it was opened with pipes"
        line = self.process.stdout.readline()
        if not line:
            raise self._died()
        return dict(json.loads(line))

    def _died(self) -> RequestError:
        status = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read().strip().splitlines()
        why = f" It said: {said[-1]}" if said else ""
        killed = " It was killed, which is what happens when memory runs out." if status == -9 else ""
        return RequestError(
            f"{self.subject.engine} could not run {self.subject.model} (exit {status}).{killed}{why}"
            " Leave this engine out, or take a smaller size."
        )


def measure(
    groups: Sequence[Sequence[Subject]],
    plan: Plan,
    flops: Callable[[str, str, tuple[int, int]], int | None],
    on_run: Callable[[Subject, str, bool], None] = lambda subject, part, cold: None,
) -> list[Case]:
    """Time every part of every subject at every size.

    Args:
        groups: those of a group are loaded side by side and take turns; groups follow one another.
        plan: sizes, rounds, threads.
        flops: operations of (model, part, size).
        on_run: hears before each run, and whether it is a cold one.

    Raises:
        RequestError: a process died.
    """
    found: list[Case] = []
    for group in groups:
        with _workers(group, plan.threads) as workers:
            for px in plan.sizes:
                _in_turns(workers, px, plan.rounds, on_run)
            found += [_case(worker, px, flops) for px in plan.sizes for worker in workers]
    return found


def grouped(
    subjects: Sequence[Subject], memory: Callable[[Subject], float], room: float
) -> list[list[Subject]]:
    """Subjects in groups that memory holds side by side, each in the first group with room for it.

    One that is larger than `room` is alone in its group.
    """
    groups: list[list[Subject]] = []
    for subject in subjects:
        fits = (group for group in groups if sum(map(memory, [*group, subject])) <= room)
        group = next(fits, None)
        if group is None:
            groups.append([subject])
        else:
            group.append(subject)
    return groups


def runs(subjects: Sequence[Subject], plan: Plan) -> int:
    """How many runs `measure` will make."""
    return sum(len(subject.parts) for subject in subjects) * len(plan.sizes) * (plan.rounds + 1)


def _in_turns(
    workers: Sequence[Worker], px: tuple[int, int], rounds: int, on_run: Callable[[Subject, str, bool], None]
) -> None:
    for part in PARTS:
        able = [worker for worker in workers if part in worker.subject.parts]
        for number in range(rounds + 1):
            for worker in able:
                on_run(worker.subject, part, number == 0)
                worker.run(part, px)


def _case(
    worker: Worker, px: tuple[int, int], flops: Callable[[str, str, tuple[int, int]], int | None]
) -> Case:
    subject = worker.subject
    parts = {
        part: Timing(
            tuple(worker.laps[part, px]),
            worker.cold[part, px],
            worker.peak[part, px],
            flops(subject.model, part, px),
        )
        for part in subject.parts
    }
    return Case(subject.model, subject.engine, px, parts)


@contextmanager
def _workers(subjects: Sequence[Subject], threads: int) -> Iterator[list[Worker]]:
    """Processes that are ready; they end with the block, whatever happens in it."""
    with ExitStack() as stack:
        made = [_started(subject, threads, stack) for subject in subjects]
        for worker in made:
            worker.answer()
        yield made


def _started(subject: Subject, threads: int, stack: ExitStack) -> Worker:
    words = [subject.engine, str(subject.folder), str(threads)]
    errors = stack.enter_context(TemporaryFile("w+"))  # noqa: SIM115, it is given to the stack
    process = subprocess.Popen(
        [sys.executable, "-m", "ssd1b.evaluate.speed.worker", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    stack.callback(_ended, process)
    return Worker(subject, process, errors)


def _ended(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
