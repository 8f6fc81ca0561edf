"""A training step on tensors without numbers: how much memory it takes, before there is a device to take it.

The real models and the real `step.losses` run forward and backward on fake tensors, which have shapes and
types but no storage, and every one that comes and goes is counted. So taps, losses, checkpointing and
autocast need no model of their own here. Knows bytes that tensors hold; does not know what libraries take
beside them (workspaces, fragments, CUDA's context), nor seconds. SSD-1B beside SDXL takes some ten seconds
and no gigabyte.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssd1b.base.units import latent_side
from ssd1b.distill import lesson
from ssd1b.distill.lesson import Said
from ssd1b.distill.step import Objective, losses, precision
from ssd1b.models.batch import Batch
from ssd1b.models.schedule import Schedule
from ssd1b.plan.count import TOKENS
from ssd1b.plan.shape import UNetShape

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from ssd1b.distill.recipe import Stage
    from ssd1b.plan.layers import LayerPlan


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Bytes above weights and gradients: kept after the forward pass, and at the step's highest moment.

    Both include the copies of weights in bfloat16 that autocast makes and the backward pass needs. With
    `update: backward` the gradients that are there at one time are in the second.
    """

    kept_bytes: int
    peak_bytes: int


def rehearse(plan: LayerPlan, stage: Stage, size_px: tuple[int, int], rows: int, device: str) -> Rehearsal:
    """One forward and backward pass of a stage's batch on fake tensors.

    Args:
        plan: the student's.
        stage: says whether there is a teacher, which precision, and whether activations are recomputed.
        size_px: width and height of the pictures.
        rows: samples on one device at once.
        device: "cuda" or "cpu": the two keep different things under autocast.
    """
    half = stage.precision == "bf16"
    numbers = torch.bfloat16 if half else torch.float32
    with _fake() as ledger:
        student = random_unet(plan.shape, torch.float32).train()
        if stage.gradient_checkpointing:
            student.enable_gradient_checkpointing()
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(not stage.trainable or any(word in name for word in stage.trainable))
            _expect_gradient(parameter, stage.update)
        objective = _objective(plan, stage, numbers)
        if half and device != "cpu":
            for unet in filter(None, (student, objective.teacher)):
                _norms_as_on_cards(unet)
        batch, noise_BCHW, timestep_B = blank_batch(plan.shape, size_px, rows)
        ledger.start()
        with precision(stage.precision, torch.device("cpu")):
            parts = losses(student, objective, batch, noise_BCHW, timestep_B)
        total = parts.total(stage.loss)
        kept = ledger.above
        total.backward()
        return Rehearsal(kept, ledger.highest)


def _objective(plan: LayerPlan, stage: Stage, numbers: torch.dtype) -> Objective:
    teacher = random_unet(plan.teacher, numbers).eval().requires_grad_(False) if stage.distils else None
    return lesson.objective(stage, plan, unread(stage), teacher)


def _expect_gradient(parameter: nn.Parameter, update: str) -> None:
    """Make room for a gradient, or have it let go as soon as it is complete."""
    if not parameter.requires_grad:
        return
    if update == "step":
        parameter.grad = torch.zeros_like(parameter)
    else:
        parameter.register_post_accumulate_grad_hook(_let_go)


def _let_go(parameter: Tensor) -> None:
    parameter.grad = None


def unread(stage: Stage) -> Said:
    """What SDXL's scheduler would say, before any is read: a student of another kind is converted for."""
    return Said(Schedule.sdxl(), stage.prediction or "epsilon", "epsilon")


def random_unet(shape: UNetShape, numbers: torch.dtype) -> UNet2DConditionModel:
    """A UNet of this shape with fresh weights in `numbers`."""
    from diffusers import UNet2DConditionModel

    before = torch.get_default_dtype()
    torch.set_default_dtype(numbers)
    try:
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(shape.config())
    finally:
        torch.set_default_dtype(before)
    return unet


def blank_batch(shape: UNetShape, size_px: tuple[int, int], rows: int) -> tuple[Batch, Tensor, Tensor]:
    """A batch of the right shapes, its noise and its timesteps; all numbers are zero."""
    width, height = (latent_side(side) for side in size_px)
    pooled = shape.projection_class_embeddings_input_dim - 6 * shape.addition_time_embed_dim
    batch = Batch(
        latent_BCHW=torch.zeros(rows, shape.in_channels, height, width),
        context_BTC=torch.zeros(rows, TOKENS, shape.cross_attention_dim),
        pooled_BC=torch.zeros(rows, pooled),
        time_ids_B6=torch.zeros(rows, 6),
        ids=("",) * rows,
    )
    return batch, torch.zeros_like(batch.latent_BCHW), torch.zeros(rows, dtype=torch.long)


class _Ledger(TorchDispatchMode):
    """Counts the bytes of every storage from its birth to its end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bytes: dict[int, int] = {}
        self._now = self._base = self._highest = 0

    def start(self) -> None:
        """What is there now is the floor from which `above` and `highest` count."""
        self._base = self._highest = self._now

    @property
    def above(self) -> int:
        """Bytes there are now, above the floor."""
        return self._now - self._base

    @property
    def highest(self) -> int:
        """The most bytes there were since the start, above the floor."""
        return self._highest - self._base

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operation and enter what it made."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._enter(tensor.untyped_storage())
        return made

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._bytes:
            self._bytes[key] = storage.nbytes()
            self._now += self._bytes[key]
            self._highest = max(self._highest, self._now)
            weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        self._now -= self._bytes.pop(key)


def _norms_as_on_cards(unet: nn.Module) -> None:
    """Make the processor's autocast treat normalisations as that of graphics cards does: in float32."""
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.forward = partial(_in_float32, module.forward)  # type: ignore[method-assign]


def _in_float32(forward: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(features.float())


@contextmanager
def _fake() -> Iterator[_Ledger]:
    with FakeTensorMode(), _Ledger() as ledger:
        yield ledger
