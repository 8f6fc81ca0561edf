"""What of a recipe can be refused before the first step: plans, layouts, starts, batches.

Looks at configuration files only, of every stage that is still to come, so that the third teacher's fault is
not found on the tenth day. The real run and `--dry-run` both ask here. Does not read weights, does not
estimate memory and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ssd1b.base.errors import DamagedFileError, RecipeError
from ssd1b.distill import lesson, student
from ssd1b.distill.recipe import Recipe, Stage
from ssd1b.models.folder import part_folder
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.shape import UNetShape, shape_of


@dataclass(frozen=True, slots=True)
class Look:
    """Where names in a recipe lead, without loading.

    `layout` is the shape of a model's UNet, or None for a model on the hub that is not on this disk yet.
    """

    plan: Callable[[str], LayerPlan]
    layout: Callable[[str], UNetShape | None]


def check(recipe: Recipe, first: int, look: Look, processes: int) -> list[str]:
    """Check the stages from number `first` on; a sentence on each thing that cannot be known yet.

    Raises:
        RecipeError: a batch that cannot be shared out over the processes, or a start that does not fit.
        LayoutError: a stage's teacher cannot teach its plan's student (see `lesson.refuse_misfit`).
        PlanError, MissingFileError, RequestError: a name that leads nowhere, from `look`.
    """
    unknown: list[str] = []
    for index in range(first, len(recipe.stages)):
        stage = recipe.stages[index]
        plan = look.plan(stage.plan)
        _check_batch(stage, processes)
        _check_start(recipe, index, look)
        for name in _models(stage):
            shape = look.layout(name)
            if shape is None:
                unknown.append(f"{name} is not on this disk yet; the run will fetch and check it.")
                continue
            if name == stage.teacher and stage.distils:
                lesson.refuse_misfit(stage, plan, shape)
            if stage.start == name or (stage.start == "teacher" and name == stage.teacher):
                student.check_origin(plan, shape, stage.name, name)
    return list(dict.fromkeys(unknown))


def shape_in(folder: Path) -> UNetShape:
    """The shape of the UNet in a model's folder, from its configuration.

    Raises:
        DamagedFileError: the configuration is missing or is not JSON.
    """
    path = part_folder(folder, "unet") / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DamagedFileError(
            f"{path} is missing or is not JSON; download or export the model again."
        ) from None
    return shape_of(config)


def _models(stage: Stage) -> list[str]:
    words = ("scratch", "teacher", "previous", "grown")
    return [*filter(None, [stage.teacher]), *([] if stage.start in words else [stage.start])]


def _check_batch(stage: Stage, processes: int) -> None:
    if stage.batch % processes:
        raise RecipeError(
            f"Stage '{stage.name}': a batch of {stage.batch} cannot be shared out evenly over"
            f" {processes} processes. Take another number of processes, or another batch."
        )


def _check_start(recipe: Recipe, index: int, look: Look) -> None:
    stage = recipe.stages[index]
    if stage.start not in ("previous", "grown"):
        return
    plan, before = look.plan(stage.plan), look.plan(recipe.stages[index - 1].plan)
    (student.check_nested if stage.start == "previous" else student.check_growable)(plan, before)
