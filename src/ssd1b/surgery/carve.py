"""Carving: a student's tensors taken from its teacher's, renamed as the plan numbers them.

Works on anything that stands for a tensor, be it a torch tensor or a range of bytes in a file: nothing is
computed, only chosen. Knows no files; the command line wires it to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from ssd1b.base.errors import LayoutError
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.tensors import tensors

Tensor = TypeVar("Tensor")


def carve_state(state: Mapping[str, Tensor], plan: LayerPlan) -> dict[str, Tensor]:
    """The student's state dict, in the teacher's order.

    Args:
        state: the teacher's state dict under diffusers' names. Values are handed on, not copied.
        plan: what stays; its teacher must be the one that `state` belongs to.

    Raises:
        LayoutError: a tensor that the student needs is not in `state`, or `state` holds one that the plan's
            teacher does not have.
    """
    strangers = state.keys() - tensors(plan.teacher).keys()
    student: dict[str, Tensor] = {}
    for key, value in state.items():
        place = plan.student_key(key)
        if place is not None and key not in strangers:
            student[place] = value
    missing = [key for key in tensors(plan.shape) if key not in student]
    if missing or strangers:
        lacks = f"it lacks {len(missing)} tensors ({missing[0]}, ...)" if missing else ""
        more = f"it has {len(strangers)} unknown tensors ({min(strangers)}, ...)" if strangers else ""
        raise LayoutError(
            f"This teacher is not the one that plan '{plan.name}' is cut from:"
            f" {' and '.join(part for part in (lacks, more) if part)}. Give a teacher of the plan's layout."
        )
    return student
