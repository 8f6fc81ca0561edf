"""Distil an SDXL of true size into SSD-1B for two steps on this machine's processor, and measure it.

    python scripts/full_step.py [--folder runs/full-size] [--side 512] [--steps 2] [--limit-gb 20]

The trainer's own path with the settings of one small card: teacher in bfloat16, student in float32 under
autocast, 8-bit AdamW within the backward pass, gradient checkpointing. Weights and pictures are random.
Needs SDXL's folder (`scripts/full_size.py` makes it) and 9 GB of disk. Prints seconds by part and the peak
of resident memory and ends with a JSON line. A watchdog ends the process 2 GB above the limit, before the
machine swaps.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ssd1b.base.seeds import seed_of
from ssd1b.base.units import human_bytes
from ssd1b.cli import show
from ssd1b.distill import student
from ssd1b.distill.journal import Journal, Silent
from ssd1b.distill.recipe import Stage
from ssd1b.distill.step import Objective
from ssd1b.distill.trainer import Surroundings, Trainer
from ssd1b.distill.update import AfterBackward, InBackward
from ssd1b.models.batch import Batch, Caption
from ssd1b.models.folder import load_unet
from ssd1b.models.schedule import Schedule
from ssd1b.plan import catalog

GB = 10**9
THRIFTY = {
    "optimizer": "adamw8bit",
    "update": "backward",
    "clip": 0.0,
    "precision": "bf16",
    "gradient_checkpointing": True,
}


class RandomBatches:
    """A batch source of random latents and captions: what is computed does not depend on what they say."""

    def __init__(self, batch: int, side_px: int) -> None:
        """Batches of `batch` square pictures."""
        self.batch, self.side_px = batch, side_px

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The same numbers for the same step."""
        random = torch.Generator().manual_seed(seed_of("batch", step))
        side, rows = self.side_px // 8, self.batch
        return Batch(
            latent_BCHW=torch.randn(rows, 4, side, side, generator=random),
            context_BTC=torch.randn(rows, 77, 2048, generator=random),
            pooled_BC=torch.randn(rows, 1280, generator=random),
            time_ids_B6=torch.tensor([[self.side_px] * 2 + [0, 0] + [self.side_px] * 2] * rows).float(),
            ids=tuple(f"random-{step}-{row}" for row in range(rows)),
        )

    def empty(self) -> Caption:
        """All zero."""
        return Caption(torch.zeros(77, 2048), torch.zeros(1280))


class Clock(Silent):
    """Seconds by part, and the peak of memory after each step; a watcher of the trainer."""

    def __init__(self) -> None:
        """Nothing measured yet."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps: list[dict[str, float]] = []
        self.began = time.perf_counter()

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Count what happens inside under `part`."""
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start

    def stage_begins(self, stage: str, step: int, steps: int) -> None:
        """Start the first step."""
        self.seconds.clear()
        self.began = time.perf_counter()

    def stepped(self, stage: str, step: int) -> None:
        """Close a step: the backward pass is what the other parts leave of it."""
        total = time.perf_counter() - self.began
        parts = {f"{part}_s": seconds for part, seconds in self.seconds.items()}
        backward = total - sum(parts.values())
        self.steps.append({**parts, "backward_s": backward, "step_s": total, "peak_bytes": peak_bytes()})
        self.seconds.clear()
        self.began = time.perf_counter()

    def forward_of(self, model: nn.Module, part: str) -> None:
        """Time a model's forward passes; what gradient checkpointing runs again belongs to the backward."""
        inner: Callable[..., object] = model.forward

        def timed(*given: object, **named: object) -> object:
            with self.timing(part):
                return inner(*given, **named)

        model.forward = timed  # type: ignore[method-assign]

    def updates_of(self, updater: AfterBackward | InBackward) -> None:
        """Time every move of the weights."""
        rules = updater.rules.values() if isinstance(updater, InBackward) else [updater.rule]
        for rule in rules:
            rule.step = self._timed_step(rule.step)  # type: ignore[method-assign]

    def _timed_step(self, step: Callable[[float], None]) -> Callable[[float], None]:
        def timed(rate: float) -> None:
            with self.timing("update"):
                step(rate)

        return timed


def main() -> None:
    """Load, carve, train two steps; print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/full-size"))
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--limit-gb", type=float, default=20.0)
    given = parser.parse_args()
    watch(given.limit_gb + 2.0)
    figures = trained(given.folder, given.side, given.steps) | {"limit_bytes": int(given.limit_gb * GB)}
    print_figures(figures)
    print(json.dumps(figures))
    sys.exit(0 if int(str(figures["peak_bytes"])) <= given.limit_gb * GB else 1)


def trained(folder: Path, side_px: int, n_steps: int) -> dict[str, object]:
    """Two steps with everything that a run does, checkpoint included."""
    place, clock = folder / "step", Clock()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    plan = catalog.find("ssd-1b")
    stage = Stage.model_validate(
        {"name": "full", "plan": "ssd-1b", "start": "teacher", "teacher": "sdxl", "steps": n_steps}
        | {"batch": 1, "log_every": 1, "keep": 1, **THRIFTY}
    )
    with clock.timing("load"):
        teacher = load_unet(folder / "sdxl", device=torch.device("cpu"), dtype=torch.bfloat16)
        unet = student.carved(plan, teacher.state_dict())
    loaded = {"load_s": clock.seconds["load"], "load_peak_bytes": peak_bytes()}
    teacher.requires_grad_(False)
    unet.enable_gradient_checkpointing()
    objective = Objective(Schedule.sdxl(), stage.weighting, teacher, plan.tap_pairs())
    around = Surroundings(place / "steps", Journal(place / "log.jsonl", 0), watcher=clock)
    trainer = Trainer(unet, objective, RandomBatches(stage.batch, side_px), stage, around)
    clock.forward_of(teacher, "teacher_forward")
    clock.forward_of(unet, "student_forward")
    assert isinstance(trainer.updater, InBackward)
    clock.updates_of(trainer.updater)
    trainer.run(0, 0)
    return {
        "side_px": side_px,
        **{key: getattr(stage, key) for key in THRIFTY},
        **loaded,
        "steps": clock.steps,
        "peak_bytes": int(clock.steps[-1]["peak_bytes"]),
        "with_checkpoint_peak_bytes": peak_bytes(),
        "parts_bytes": parts_bytes(trainer, teacher),
        "loss": last_loss(place / "log.jsonl"),
    }


def parts_bytes(trainer: Trainer, teacher: nn.Module) -> dict[str, int]:
    """What must stay in memory, by part."""
    moments = [tensor for group in trainer.updater.moments().values() for tensor in group.values()]
    return {
        "teacher": sum(each.nbytes for each in teacher.parameters()),
        "student": sum(each.nbytes for each in trainer.student.parameters()),
        "gradients": sum(each.grad.nbytes for each in trainer.student.parameters() if each.grad is not None),
        "optimizer": sum(each.nbytes for each in moments),
    }


def last_loss(log: Path) -> float:
    """The loss of the last step."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return float([line["losses"]["loss"] for line in lines if "losses" in line][-1])


def peak_bytes() -> int:
    """The kernel's own peak of this process's resident memory."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def watch(limit_gb: float) -> None:
    """End the process when its memory passes the limit."""
    page = os.sysconf("SC_PAGE_SIZE")

    def look() -> None:
        while True:
            taken = page * int(Path("/proc/self/statm").read_text().split()[1])
            if taken > limit_gb * GB:
                sys.stderr.write(f"{human_bytes(taken)} of memory: ended before the machine swaps.\n")
                os._exit(1)
            time.sleep(0.2)

    threading.Thread(target=look, daemon=True).start()


def print_figures(figures: dict[str, object]) -> None:
    """Seconds by part of every step, and the memory."""
    steps = figures["steps"]
    assert isinstance(steps, list)
    parts = ("teacher_forward_s", "student_forward_s", "backward_s", "update_s", "step_s")
    rows = [(str(n), *(f"{step[part]:.1f} s" for part in parts), human_bytes(step["peak_bytes"]))
            for n, step in enumerate(steps, 1)]  # fmt: skip
    show.table("One step at full size", ("step", *(f">{part[:-2]}" for part in parts), ">peak"), rows)


if __name__ == "__main__":
    main()
