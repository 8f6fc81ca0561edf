"""The pure middle of training: a batch, its noise and its timesteps in, loss parts out.

Reads nothing global, draws no random numbers, writes nothing. Does not know optimizers, recipes or
devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ssd1b.distill.losses import LossParts, feature_losses, feature_scales, weighted_mse
from ssd1b.distill.taps import tapped
from ssd1b.models.batch import Batch
from ssd1b.models.schedule import Schedule


class Pair(Protocol):
    """A student site and the teacher site it learns from (plan.layers.TapPair)."""

    @property
    def student_site(self) -> str: ...  # noqa: D102
    @property
    def teacher_site(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Objective:
    """What is compared with what: the schedule, the weighting, and the teacher if there is one."""

    schedule: Schedule
    weighting: str = "uniform"
    teacher: nn.Module | None = None
    pairs: Sequence[Pair] = ()


def losses(
    student: nn.Module, objective: Objective, batch: Batch, noise_BCHW: Tensor, timestep_B: Tensor
) -> LossParts:
    """Loss parts of one batch: task always, output and one feature per pair with a teacher.

    Distances of noise estimates (epsilon) are weighted per sample by the signal-to-noise ratio; the
    distillation term as well as the task term, so no weighting silences the teacher.
    """
    noisy_BCHW = objective.schedule.add_noise(batch.latent_BCHW, noise_BCHW, timestep_B)
    weight_B = objective.schedule.weight(objective.weighting, timestep_B)
    with tapped(student, [pair.student_site for pair in objective.pairs]) as at_student:
        estimate_BCHW = predict_noise(student, noisy_BCHW, timestep_B, batch)
    task = weighted_mse(estimate_BCHW, noise_BCHW, weight_B)
    if objective.teacher is None:
        return LossParts(task)
    teacher_sites = [pair.teacher_site for pair in objective.pairs]
    with tapped(objective.teacher, teacher_sites) as at_teacher, torch.inference_mode():
        target_BCHW = predict_noise(objective.teacher, noisy_BCHW, timestep_B, batch)
    ours = {pair.student_site: at_student[pair.student_site] for pair in objective.pairs}
    theirs = {pair.teacher_site: at_teacher[pair.teacher_site] for pair in objective.pairs}
    return LossParts(
        task=task,
        output=weighted_mse(estimate_BCHW, target_BCHW, weight_B),
        feature=feature_losses(ours, theirs),
        feature_scale=feature_scales(ours, theirs),
    )


def predict_noise(unet: nn.Module, noisy_BCHW: Tensor, timestep_B: Tensor, batch: Batch) -> Tensor:
    """One call of an SDXL UNet: its estimate of the noise."""
    estimate_BCHW: Tensor = unet(
        noisy_BCHW,
        timestep_B,
        encoder_hidden_states=batch.context_BTC,
        added_cond_kwargs={"text_embeds": batch.pooled_BC, "time_ids": batch.time_ids_B6},
        return_dict=False,
    )[0]
    return estimate_BCHW
