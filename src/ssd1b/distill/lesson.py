"""What a teacher and the parts beside a student say before training: noise schedule, prediction, layout.

Reads scheduler configs, refuses what cannot be compared, and says what is compared with what. Does not know
how losses are computed, nor loops.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ssd1b.base.errors import LayoutError, RecipeError
from ssd1b.distill.recipe import Stage
from ssd1b.distill.step import Objective
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.formats.unet_layout import fitted, layout_name
from ssd1b.models.schedule import Schedule, prediction_of
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.shape import UNetShape


@dataclass(frozen=True, slots=True)
class Said:
    """The noise schedule of a stage, and what its two models predict: "epsilon" or "v"."""

    schedule: Schedule
    prediction: str
    teacher_prediction: str


def said_by(stage: Stage, teacher: Path | None, parts: Path | None) -> Said:
    """What the schedulers of the teacher's folder and of the parts beside the student say.

    The student predicts what its stage states, else what the scheduler that will be put beside it says: so
    teachers of both kinds may follow one another, their estimates being converted. A folder without a
    scheduler speaks for SDXL: its noise schedule, and epsilon.

    Raises:
        RecipeError: teacher and parts have two noise schedules, or noise is to be predicted from pure noise.
        LayoutError: a scheduler is of another kind than SDXL's.
    """
    schedule, shipped = _scheduler(parts or teacher)
    taught, theirs = _scheduler(teacher or parts)
    if not torch.equal(schedule.alpha_bar_T, taught.alpha_bar_T):
        raise RecipeError(
            f"Stage '{stage.name}': the scheduler of the teacher ({teacher}) adds noise by another schedule"
            f" than the one that is put beside the student ({parts}). Name a model in `parts:` whose"
            " scheduler is that of the teachers."
        )
    ours = stage.prediction or shipped
    if schedule.ends_in_noise and "epsilon" in (ours, theirs):
        raise RecipeError(
            f"Stage '{stage.name}': at the last timestep of this noise schedule (rescale_betas_zero_snr) the"
            " input is all noise, so 'epsilon' has nothing to teach there. Set `prediction: v`, with a"
            " teacher that predicts v."
        )
    return Said(schedule, ours, theirs)


def objective(stage: Stage, plan: LayerPlan, said: Said, teacher: nn.Module | None) -> Objective:
    """What a stage compares: what was said, its recipe's modes, and the plan's tap pairs under a teacher."""
    return Objective(
        schedule=said.schedule,
        weighting=stage.weighting,
        teacher=teacher,
        pairs=plan.tap_pairs(stage.loss.feature_level) if teacher and stage.loss.feature else (),
        prediction=said.prediction,
        teacher_prediction=said.teacher_prediction,
        feature_weighting=stage.loss.feature_weighting,
        massive=stage.loss.massive,
    )


def refuse_misfit(stage: Stage, plan: LayerPlan, teacher: UNetShape) -> None:
    """Raise LayoutError, naming both, unless a teacher of this shape can teach the plan's student.

    Features are compared layer by layer, so they need the very layout and widths that the plan is cut from;
    outputs alone need only the same latents, captions and size conditioning.
    """
    if _world(teacher) == _world(plan.teacher) and (not stage.loss.feature or is_cut_from(plan, teacher)):
        return
    where = f"Stage '{stage.name}': the teacher '{stage.teacher}'"
    fitted(plan, teacher, where)  # says which layouts these are, where they differ
    raise LayoutError(
        f"{where} has the blocks that plan '{plan.name}' is cut from ('{layout_name(plan.teacher)}') at other"
        f" sizes: widths {teacher.channels} instead of {plan.teacher.channels}, text"
        f" {teacher.cross_attention_dim} instead of {plan.teacher.cross_attention_dim}. Give a teacher of the"
        " plan's size, or a plan for this one."
    )


def is_cut_from(plan: LayerPlan, shape: UNetShape) -> bool:
    """Whether a UNet of this shape is what the plan is cut from; its picture size may differ."""
    return replace(shape, sample_size=plan.teacher.sample_size) == plan.teacher


def _world(shape: UNetShape) -> tuple[int, ...]:
    return (
        shape.in_channels,
        shape.out_channels,
        shape.cross_attention_dim,
        shape.addition_time_embed_dim,
        shape.projection_class_embeddings_input_dim,
    )


def _scheduler(folder: Path | None) -> tuple[Schedule, str]:
    path = folder / "scheduler" / "scheduler_config.json" if folder else None
    if path is None or not path.is_file():
        return Schedule.sdxl(), "epsilon"
    config = read_json(path)
    return Schedule.of(config, str(path)), prediction_of(config, str(path))
