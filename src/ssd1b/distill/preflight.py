"""What can be refused before the first step: teachers of another layout, batches that do not divide.

Looks at configuration files only, of every stage that is still to come, so that the third teacher's fault is
not found on the tenth day. Does not read weights and does not estimate memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ssd1b.base.errors import DamagedFileError, RecipeError
from ssd1b.distill import lesson
from ssd1b.distill.ranks import Ranks
from ssd1b.distill.recipe import Recipe
from ssd1b.models.folder import part_folder
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.shape import UNetShape, shape_of


def check(
    recipe: Recipe,
    first: int,
    plan_of: Callable[[str], LayerPlan],
    model_of: Callable[[str], Path],
    ranks: Ranks,
) -> None:
    """Check the stages from number `first` on; models on the hub are fetched now.

    Raises:
        RecipeError: a stage's batch cannot be shared out evenly over the processes.
        LayoutError: a stage's teacher cannot teach its plan's student (see `lesson.refuse_misfit`).
    """
    for stage in recipe.stages[first:]:
        if stage.batch % ranks.world:
            raise RecipeError(
                f"Stage '{stage.name}': a batch of {stage.batch} cannot be shared out evenly over"
                f" {ranks.world} processes. Take another number of processes, or another batch."
            )
        if stage.distils:
            assert stage.teacher is not None, "a stage that distils has a teacher"
            lesson.refuse_misfit(stage, plan_of(stage.plan), _shape(model_of(stage.teacher)))


def _shape(folder: Path) -> UNetShape:
    path = part_folder(folder, "unet") / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DamagedFileError(
            f"{path} is missing or is not JSON; download or export the model again."
        ) from None
    return shape_of(config)
