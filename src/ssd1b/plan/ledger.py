"""What one plan keeps and another does not, as a ledger that adds up to the last parameter.

Both plans must cut the same teacher; cells are named in the teacher. This module does not know why a plan
drops what it drops.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

from ssd1b.base.errors import PlanError
from ssd1b.plan.count import cell_of
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.tensors import tensors


@dataclass(frozen=True, slots=True)
class Entry:
    """So many alike cells: what they are, their width, how many parameters each has."""

    count: int
    what: str
    width: int
    each: int

    @property
    def total(self) -> int:
        """The parameters of all of them together."""
        return self.count * self.each

    def __str__(self) -> str:
        many = "s" if self.count > 1 else ""
        return f"{self.count} × {self.what}{many} of width {self.width} ({self.each:,} each)"


def kept_cells(plan: LayerPlan) -> dict[str, int]:
    """Return the teacher cells that the student takes (named as in `count.cells`) with their parameters."""
    totals: Counter[str] = Counter()
    for name, sizes in tensors(plan.shape).items():
        totals[cell_of(plan.teacher_key(name))] += prod(sizes)
    return dict(totals)


def only_in(first: LayerPlan, second: LayerPlan) -> tuple[Entry, ...]:
    """Return what `first` keeps and `second` drops, alike cells together, the largest total first.

    Raises:
        PlanError: the plans cut different teachers.
    """
    if first.teacher != second.teacher:
        raise PlanError(
            f"'{first.name}' and '{second.name}' cut different teachers, so their layers cannot be told"
            " against each other. Compare two plans of the same teacher, such as 'sdxl' and 'ssd-1b'."
        )
    there = kept_cells(second)
    kinds = Counter(_kind(first, cell, each) for cell, each in kept_cells(first).items() if cell not in there)
    entries = [Entry(count, what, width, each) for (what, width, each), count in kinds.items()]
    return tuple(sorted(entries, key=lambda entry: -entry.total))


def _kind(plan: LayerPlan, cell: str, each: int) -> tuple[str, int, int]:
    words = {
        "transformer_blocks": "transformer block",
        "attentions": "attention shell",
        "resnets": "residual block",
        "downsamplers": "downsampler",
        "upsamplers": "upsampler",
    }
    what = next((word for part, word in words.items() if part in cell), cell)
    block = next((one for one in plan.teacher.blocks if cell.startswith(f"{one}.")), None)
    level = plan.teacher.level(block) if block else 0
    return what, plan.teacher.channels[level], each
