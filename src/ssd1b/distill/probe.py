"""How fast this device is: a second of matrix products, and for small stages two real steps.

The steps are the trainer's own, on random weights and random batches, so no model and no data is needed.
Knows devices and seconds; does not know what they are used for.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ssd1b.base.units import latent_side
from ssd1b.distill import lesson
from ssd1b.distill.journal import Journal, Silent
from ssd1b.distill.rehearsal import random_unet, unread
from ssd1b.distill.trainer import Surroundings, Trainer
from ssd1b.models.batch import Batch, Caption
from ssd1b.models.schedule import Schedule
from ssd1b.plan.count import TOKENS

if TYPE_CHECKING:
    from ssd1b.distill.recipe import Stage
    from ssd1b.plan.layers import LayerPlan
    from ssd1b.plan.shape import UNetShape

SIDE = {"cpu": 2048, "cuda": 8192}
STEPS = 3
# The share of the matrix products' rate that a step is taken to reach, at worst and at best. Assumed: no step
# was held against its machine's rate yet.
SHARES = {"cpu": (0.6, 0.95), "cuda": (0.25, 0.6)}
REAL_STEPS_BELOW_S = 8.0


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of an optimizer step, the range they may lie in, and how they were found, in a sentence."""

    seconds: float
    low: float
    high: float
    how: str


def matmul_rate(device: torch.device, numbers: torch.dtype, seconds: float = 1.0) -> float:
    """Floating point operations a second of the fastest of as many large products as fit into `seconds`."""
    side = SIDE.get(device.type, SIDE["cpu"])
    left, right = (torch.randn(side, side, device=device).to(numbers) for _ in range(2))
    torch.mm(left, right)
    laps: list[float] = []
    while sum(laps) < seconds or len(laps) < 3:
        began = _now(device)
        torch.mm(left, right)
        laps.append(_now(device) - began)
    return float(2 * side**3 / min(laps))


def estimated(flops: int, rate: float, device: str) -> Speed:
    """Seconds of `flops` operations on a device of this rate."""
    low, high = SHARES.get(device, SHARES["cuda"])
    share = (low * high) ** 0.5
    how = (
        f"computed: operations over {share:.0%} of the probe's {rate / 1e12:.3g} TFLOP/s,"
        f" from {low:.0%} to {high:.0%}"
    )
    return Speed(flops / (rate * share), flops / (rate * high), flops / (rate * low), how)


def measured(
    stage: Stage, plan: LayerPlan, size_px: tuple[int, int], rows: int, device: torch.device
) -> Speed:
    """Seconds of the trainer's own steps on random weights, the first not counted."""
    laps = _laps(stage, plan, size_px, rows, device)[1:]
    mean = sum(laps) / len(laps)
    how = f"measured: {len(laps)} real steps on random weights and batches, without reading data"
    return Speed(mean, 0.8 * min(laps), 1.3 * max(laps), how)


def _laps(
    stage: Stage, plan: LayerPlan, size_px: tuple[int, int], rows: int, device: torch.device
) -> list[float]:
    student = random_unet(plan.shape, torch.float32).to(device)
    if stage.gradient_checkpointing:
        student.enable_gradient_checkpointing()
    teacher = None
    if stage.distils:
        numbers = torch.bfloat16 if stage.precision == "bf16" else torch.float32
        teacher = random_unet(plan.teacher, numbers).to(device).eval().requires_grad_(False)
    said = replace(unread(stage), schedule=Schedule.sdxl().to(device))
    clock = _Clock(device)
    short = stage.model_copy(
        update={
            "steps": STEPS + 1,
            "batch": rows,
            "warmup": 0,
            "log_every": STEPS + 1,
            "checkpoint_every": STEPS + 1,
            "milestone_every": 0,
            "preview_every": 0,
            "parallel": "ddp",
        }
    )
    around = Surroundings(Path(os.devnull), Journal(None, 0), device=device, watcher=clock)
    objective = lesson.objective(stage, plan, said, teacher)
    with suppress(_Enough):
        Trainer(student, objective, _Random(plan.shape, size_px, rows), short, around).run(0, 0)
    return clock.laps


class _Enough(Exception):
    """Thrown by the clock before the trainer would save what it trained."""


class _Clock(Silent):
    """A watcher that looks at the time after each step, and ends it all after `STEPS`."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.laps = device, list[float]()

    def stage_begins(self, stage: str, step: int, steps: int) -> None:
        """Begin the first lap."""
        self._since = _now(self._device)

    def stepped(self, stage: str, step: int) -> None:
        """End a lap and begin the next."""
        now = _now(self._device)
        self.laps.append(now - self._since)
        self._since = now
        if len(self.laps) == STEPS:
            raise _Enough


class _Random:
    """A batch source that makes numbers up; it says nothing about how fast a real one is."""

    def __init__(self, shape: UNetShape, size_px: tuple[int, int], rows: int) -> None:
        width, height = (latent_side(side) for side in size_px)
        pooled = shape.projection_class_embeddings_input_dim - 6 * shape.addition_time_embed_dim
        self._empty = Caption(torch.randn(TOKENS, shape.cross_attention_dim), torch.randn(pooled))
        self._latent_BCHW = torch.randn(rows, shape.in_channels, height, width)

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The same random batch at every step."""
        rows = len(self._latent_BCHW)
        return Batch(
            latent_BCHW=self._latent_BCHW,
            context_BTC=self._empty.context_TC.expand(rows, -1, -1),
            pooled_BC=self._empty.pooled_C.expand(rows, -1),
            time_ids_B6=torch.zeros(rows, 6),
            ids=tuple(f"random-{step}-{row}" for row in range(rows)),
        )

    def empty(self) -> Caption:
        """A random caption."""
        return self._empty


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
