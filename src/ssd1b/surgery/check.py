"""What a carving keeps, drops and moves, place by place, before anything is written.

A *place* is an attention site, the residual blocks of a block, a sampler, or one of the layers outside the
blocks. Knows sizes in bytes, no tensors and no files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ssd1b.plan.layers import LayerPlan

_INDEXED = re.compile(r"(?P<place>.+\.attentions\.\d+)\.transformer_blocks\.(?P<index>\d+)\.")
_SHELL = re.compile(r"(?P<place>.+\.attentions\.\d+)\.(norm|proj_in|proj_out)\.")
_LAYER = re.compile(r"(?P<place>(?:(?:down|up)_blocks\.\d+|mid_block)\.\w+)\.(?P<index>\d+)\.")


@dataclass(slots=True)
class Row:
    """One place of the teacher.

    Attributes:
        place: its name in the teacher, e.g. "down_blocks.2.attentions.0".
        becomes: its name in the student; None where all of it goes.
        count: how many numbered layers the teacher has there; 0 where layers are not numbered.
        copied: (number in the student, number in the teacher) of each layer that stays.
        dropped: numbers in the teacher of the layers that go.
        kept_bytes: bytes of its weights that stay.
        dropped_bytes: bytes that go.
    """

    place: str
    becomes: str | None = None
    count: int = 0
    copied: list[tuple[int, int]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    kept_bytes: int = 0
    dropped_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The whole carving: a row for each place of the teacher, in running order of its file."""

    plan: str
    rows: tuple[Row, ...]
    kept_tensors: int
    dropped_tensors: int

    @property
    def kept_bytes(self) -> int:
        """Bytes of UNet weights that stay."""
        return sum(row.kept_bytes for row in self.rows)

    @property
    def dropped_bytes(self) -> int:
        """Bytes of UNet weights that go."""
        return sum(row.dropped_bytes for row in self.rows)

    def record(self) -> dict[str, object]:
        """The report as JSON."""
        return {
            "plan": self.plan,
            "kept_tensors": self.kept_tensors,
            "dropped_tensors": self.dropped_tensors,
            "kept_bytes": self.kept_bytes,
            "dropped_bytes": self.dropped_bytes,
            "places": [asdict(row) for row in self.rows],
        }


def check(n_bytes: Mapping[str, int], plan: LayerPlan) -> CheckReport:
    """The report of carving a teacher whose tensors have these sizes, by diffusers name, in bytes."""
    rows: dict[str, Row] = {}
    kept = 0
    for key, size in sorted(n_bytes.items(), key=lambda item: _order(plan, item[0])):
        place, index = _place_of(key)
        row = rows.setdefault(place, Row(place))
        target = plan.student_key(key)
        if target is None:
            row.dropped_bytes += size
        else:
            kept += 1
            row.kept_bytes += size
            row.becomes, new = _place_of(target)
        if index is None:
            continue
        row.count = max(row.count, index + 1)
        if target is None and index not in row.dropped:
            row.dropped.append(index)
        elif target is not None and new is not None and (new, index) not in row.copied:
            row.copied.append((new, index))
    for row in rows.values():
        row.copied.sort()
        row.dropped.sort()
    return CheckReport(plan.name, tuple(rows.values()), kept, len(n_bytes) - kept)


def _place_of(key: str) -> tuple[str, int | None]:
    """The place a tensor belongs to, and the number of its layer there, if layers are numbered."""
    found = _INDEXED.match(key) or _SHELL.match(key) or _LAYER.match(key)
    if found is None:
        return key.split(".")[0], None
    index = found.groupdict().get("index")
    return found["place"], None if index is None else int(index)


def _order(plan: LayerPlan, key: str) -> int:
    """Where in the teacher a tensor comes in running order; files are sorted by name."""
    place = _place_of(key)[0]
    blocks = ("conv_in", "time_embedding", "add_embedding", *plan.teacher.blocks, "conv_norm_out", "conv_out")
    return next((number for number, block in enumerate(blocks) if f"{place}.".startswith(f"{block}.")), -1)
