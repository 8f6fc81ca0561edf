"""What a stage will take: memory by part, operations, bytes on the disk.

Arithmetic over `plan.count`, and over `rehearsal` for activations. Does not look at the machine and knows no
speed. Everything is per device unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ssd1b.distill import adamw, eight_bit
from ssd1b.distill.rehearsal import rehearse
from ssd1b.plan import count
from ssd1b.plan.tensors import tensors

if TYPE_CHECKING:
    from ssd1b.distill.recipe import Stage
    from ssd1b.plan.layers import LayerPlan
    from ssd1b.plan.shape import UNetShape

FLOAT32, BFLOAT16 = 4, 2
MOMENTS = 2
"""AdamW keeps so many numbers per trained parameter."""

RESERVE = 0.10
"""Share of the counted memory that is left for what is not: libraries' workspaces, fragments, contexts."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage runs: the device's kind, and how many share the batch, and under FSDP2 the student."""

    device: str = "cpu"
    ranks: int = 1

    def shards(self, stage: Stage) -> int:
        """Over how many devices weights, gradients, moments and average of a stage's student lie."""
        return self.ranks if stage.parallel == "fsdp2" else 1


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device; `activations` at the step's highest moment, with autocast's copies of weights."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    teacher: int
    activations: int

    @property
    def parts(self) -> dict[str, int]:
        """Every part by its name."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def needed(self) -> int:
        """All parts and the reserve."""
        return round(self.total * (1 + RESERVE))


@dataclass(frozen=True, slots=True)
class Work:
    """Floating point operations of one optimizer step on one device."""

    teacher: int
    forward: int
    backward: int
    recompute: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.teacher + self.forward + self.backward + self.recompute


@dataclass(frozen=True, slots=True)
class StageForecast:
    """One stage. `rows` is what a device sees at once; the bytes of checkpoint and student are the run's."""

    name: str
    plan: str
    start: str
    teacher: str | None
    steps: int
    size_px: tuple[int, int]
    rows: int
    parameters: int
    trained: int
    teacher_parameters: int
    memory: Memory
    activations_checkpointed: int
    activations_kept: int
    work: Work
    checkpoint_bytes: int
    student_bytes: int


def foresee(stage: Stage, plan: LayerPlan, size_px: tuple[int, int], place: Place) -> StageForecast:
    """Forecast a stage whose largest pictures are `size_px` (width, height)."""
    rows = stage.batch // place.ranks
    whole, trained = count.parameters(plan.shape), _trained(plan.shape, stage.trainable)
    recomputed, kept = (
        rehearse(
            plan, stage.model_copy(update={"gradient_checkpointing": on}), size_px, rows, place.device
        ).peak_bytes
        for on in (True, False)
    )
    activations = recomputed if stage.gradient_checkpointing else kept
    return StageForecast(
        name=stage.name,
        plan=stage.plan,
        start=stage.start,
        teacher=stage.teacher,
        steps=stage.steps,
        size_px=size_px,
        rows=rows,
        parameters=whole,
        trained=trained,
        teacher_parameters=count.parameters(plan.teacher) if stage.teacher else 0,
        memory=_memory(stage, plan, place.shards(stage), activations),
        activations_checkpointed=recomputed,
        activations_kept=kept,
        work=work(stage, plan, size_px, rows),
        checkpoint_bytes=FLOAT32 * (whole + trained * bool(stage.ema)) + _moments(stage, plan.shape),
        student_bytes=FLOAT32 * whole,
    )


def _memory(stage: Stage, plan: LayerPlan, shards: int, activations: int) -> Memory:
    whole, trained = count.parameters(plan.shape), _trained(plan.shape, stage.trainable)
    teacher = count.parameters(plan.teacher) if stage.teacher else 0
    return Memory(
        weights=FLOAT32 * whole // shards,
        gradients=FLOAT32 * trained // shards if stage.update == "step" else 0,
        optimizer=_moments(stage, plan.shape) // shards,
        average=FLOAT32 * trained // shards if stage.ema else 0,
        teacher=teacher * (BFLOAT16 if stage.precision == "bf16" else FLOAT32),
        activations=activations,
    )


def work(stage: Stage, plan: LayerPlan, size_px: tuple[int, int], rows: int) -> Work:
    """Operations of an optimizer step: a backward pass costs two forward passes, recomputing one more."""
    width, height = size_px
    samples = rows * stage.accumulate
    forward = count.flops(plan.shape, height, width, batch=samples)
    return Work(
        teacher=count.flops(plan.teacher, height, width, batch=samples) if stage.distils else 0,
        forward=forward,
        backward=2 * forward,
        recompute=forward if stage.gradient_checkpointing else 0,
    )


def disk_bytes(stages: Sequence[tuple[Stage, StageForecast]], lent_bytes: int) -> int:
    """The most a run's folder holds: checkpoints (one more while it is written) and every stage's student.

    `lent_bytes` are the other parts of a model folder, copied beside each student.
    """
    checkpoints = max((stage.keep + 1) * seen.checkpoint_bytes for stage, seen in stages)
    return checkpoints + sum(seen.student_bytes + lent_bytes for _, seen in stages)


def _moments(stage: Stage, shape: UNetShape) -> int:
    """Bytes of AdamW's two moments; of eight bits with a scale per block, but for what stays in float32."""
    counts = _counts(shape, stage.trainable)
    if stage.optimizer == "adamw":
        return MOMENTS * FLOAT32 * sum(counts)
    packed = sum(count for count in counts if adamw.packs(count))
    scales = FLOAT32 * packed // eight_bit.BLOCK
    return MOMENTS * (packed + scales + FLOAT32 * (sum(counts) - packed))


def _trained(shape: UNetShape, words: Sequence[str]) -> int:
    return sum(_counts(shape, words))


def _counts(shape: UNetShape, words: Sequence[str]) -> list[int]:
    """Numbers in each trained tensor."""
    named = tensors(shape).items()
    return [prod(sizes) for name, sizes in named if not words or any(word in name for word in words)]
