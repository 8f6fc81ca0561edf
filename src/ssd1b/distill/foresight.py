"""What of a recipe can be refused before anything is loaded: plans, layouts, starts, batches.

Raises what the real run would raise, of every stage at once and from configurations alone. Knows plans and
shapes; does not know where models lie, reads no weights and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ssd1b.base.errors import LayoutError, RecipeError
from ssd1b.distill import student
from ssd1b.distill.recipe import Recipe, Stage
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.shape import UNetShape

# What of a teacher's shape decides whether it can be shown the student's inputs.
_INPUTS = ("in_channels", "out_channels", "cross_attention_dim", "projection_class_embeddings_input_dim")


@dataclass(frozen=True, slots=True)
class Look:
    """Where names in a recipe lead, without loading or fetching.

    `layout` is the shape of a model's UNet, or None for a model on the hub that is not on this disk yet.
    """

    plan: Callable[[str], LayerPlan]
    layout: Callable[[str], UNetShape | None]


def check(recipe: Recipe, look: Look, ranks: int) -> list[str]:
    """Check every stage; return a sentence on each thing that cannot be known yet.

    Raises:
        RecipeError: a batch that cannot be shared out over the ranks, or a start that does not fit its plan.
        LayoutError: a teacher without the layers that its plan reads.
        PlanError, MissingFileError, RequestError: a name that leads nowhere, from `look`.
    """
    unknown: list[str] = []
    for index, stage in enumerate(recipe.stages):
        plan = look.plan(stage.plan)
        _check_batch(stage, ranks)
        _check_start(recipe, index, look)
        for name in _models(stage):
            shape = look.layout(name)
            if shape is None:
                unknown.append(f"{name} is not on this disk yet; the run will fetch and check it.")
                continue
            if name == stage.teacher and stage.distils:
                _check_teacher(stage, plan, shape)
            if stage.start in (name, "teacher"):
                student.check_origin(plan, shape, stage.name, name)
    return list(dict.fromkeys(unknown))


def _models(stage: Stage) -> list[str]:
    words = ("scratch", "teacher", "previous", "grown")
    return [*filter(None, [stage.teacher]), *([] if stage.start in words else [stage.start])]


def _check_batch(stage: Stage, ranks: int) -> None:
    if stage.batch % ranks:
        raise RecipeError(
            f"Stage '{stage.name}': a batch of {stage.batch} cannot be shared out evenly over {ranks}"
            " processes. Take another number of processes, or another batch."
        )


def _check_start(recipe: Recipe, index: int, look: Look) -> None:
    stage = recipe.stages[index]
    if stage.start not in ("previous", "grown"):
        return
    plan, before = look.plan(stage.plan), look.plan(recipe.stages[index - 1].plan)
    (student.check_nested if stage.start == "previous" else student.check_growable)(plan, before)


def _check_teacher(stage: Stage, plan: LayerPlan, teacher: UNetShape) -> None:
    """A teacher read by taps must have the plan's layout; one whose answers alone count, the same inputs."""
    names = tuple(teacher.__slots__) if stage.loss.feature > 0 else _INPUTS
    for name in names:
        there, wanted = getattr(teacher, name), getattr(plan.teacher, name)
        if there != wanted and name != "sample_size":
            raise LayoutError(
                f"Stage '{stage.name}': the teacher '{stage.teacher}' does not have the layout that plan"
                f" '{plan.name}' says ({name}: {there} there, {wanted} in the plan). Take a plan of this"
                " teacher, or another teacher; nothing was trained."
            )
