"""The pure middle of training: a batch, its noise and its timesteps in, loss parts out.

Reads nothing global, draws no random numbers, writes nothing. Does not know optimizers, recipes or
devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from ssd1b.distill.losses import (
    LossParts,
    feature_losses,
    feature_scales,
    not_massive,
    weighted_mse,
)
from ssd1b.distill.taps import tapped
from ssd1b.models.batch import Batch
from ssd1b.models.schedule import Schedule

Features: TypeAlias = Mapping[str, Tensor]


class Pair(Protocol):
    """A student site and the teacher site it learns from (plan.layers.TapPair)."""

    @property
    def student_site(self) -> str: ...  # noqa: D102
    @property
    def teacher_site(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Objective:
    """What is compared with what: the schedule, the weightings, and the teacher if there is one.

    Attributes:
        schedule: the noise schedule of student and teacher.
        weighting: of each sample's task and output loss (schedule.WEIGHTINGS).
        teacher: the model that is imitated.
        pairs: the sites whose features are compared; none compares outputs only.
        prediction: what the student predicts, "epsilon" or "v".
        teacher_prediction: what the teacher predicts.
        feature_weighting: of each sample's feature distances (schedule.FEATURE_WEIGHTINGS).
        massive: teacher values above so many times their sample's median are left out; 0 leaves none out.
    """

    schedule: Schedule
    weighting: str = "uniform"
    teacher: nn.Module | None = None
    pairs: Sequence[Pair] = ()
    prediction: str = "epsilon"
    teacher_prediction: str = "epsilon"
    feature_weighting: str = "uniform"
    massive: float = 0.0


def precision(name: str, device: torch.device) -> torch.autocast | nullcontext[None]:
    """The numbers that models run in: "fp32" as they are, "bf16" under autocast.

    Nothing is kept for a second use: a weight serves once in a pass, and copies of all take gigabytes.
    """
    if name == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def losses(
    student: nn.Module,
    objective: Objective,
    batch: Batch,
    noise_BCHW: Tensor,
    timestep_B: Tensor,
    nudge_BCHW: Tensor | None = None,
) -> LossParts:
    """Loss parts of one batch: task always, output and one feature per pair with a teacher.

    Distances of estimates are weighted per sample by the signal-to-noise ratio; the distillation term as
    well as the task term, so no weighting silences the teacher. `nudge_BCHW` is noise that the input
    gets on top of the noise that is to be found (input perturbation, arXiv:2301.11706).
    """
    schedule = objective.schedule
    added_BCHW = noise_BCHW if nudge_BCHW is None else noise_BCHW + nudge_BCHW
    noisy_BCHW = schedule.add_noise(batch.latent_BCHW, added_BCHW, timestep_B)
    weight_B = schedule.weight(objective.weighting, timestep_B, objective.prediction)
    with tapped(student, [pair.student_site for pair in objective.pairs]) as at_student:
        estimate_BCHW = predict_noise(student, noisy_BCHW, timestep_B, batch)
    truth_BCHW = schedule.target(objective.prediction, batch.latent_BCHW, noise_BCHW, timestep_B)
    task = weighted_mse(estimate_BCHW, truth_BCHW, weight_B)
    if objective.teacher is None:
        return LossParts(task)
    teacher_sites = [pair.teacher_site for pair in objective.pairs]
    with tapped(objective.teacher, teacher_sites) as at_teacher, torch.inference_mode():
        target_BCHW = predict_noise(objective.teacher, noisy_BCHW, timestep_B, batch)
    if objective.teacher_prediction != objective.prediction:
        target_BCHW = schedule.converted(target_BCHW, noisy_BCHW, timestep_B, objective.prediction)
    output = weighted_mse(estimate_BCHW, target_BCHW, weight_B)
    return _with_features(LossParts(task, output), objective, (at_student, at_teacher), timestep_B)


def _with_features(
    parts: LossParts, objective: Objective, caught: tuple[Features, Features], timestep_B: Tensor
) -> LossParts:
    """The parts with one distance per tap pair, of what student and teacher were caught computing."""
    at_student, at_teacher = caught
    ours = {pair.student_site: at_student[pair.student_site] for pair in objective.pairs}
    theirs = {pair.teacher_site: at_teacher[pair.teacher_site] for pair in objective.pairs}
    kept = not_massive(ours, theirs, objective.massive) if objective.massive else None
    even = objective.feature_weighting == "uniform"
    weight_B = None if even else objective.schedule.feature_weight(objective.feature_weighting, timestep_B)
    return replace(
        parts,
        feature=feature_losses(ours, theirs, kept, weight_B),
        feature_scale=feature_scales(ours, theirs, kept),
        masked={site: (~where).float().mean() for site, where in (kept or {}).items()},
    )


def predict_noise(unet: nn.Module, noisy_BCHW: Tensor, timestep_B: Tensor, batch: Batch) -> Tensor:
    """One call of an SDXL UNet: its estimate of the noise, or of the velocity if that is what it predicts."""
    estimate_BCHW: Tensor = unet(
        noisy_BCHW,
        timestep_B,
        encoder_hidden_states=batch.context_BTC,
        added_cond_kwargs={"text_embeds": batch.pooled_BC, "time_ids": batch.time_ids_B6},
        return_dict=False,
    )[0]
    return estimate_BCHW
