"""The loss curves behind a model: found beside it, read, and thinned to what a chart can show.

A run keeps its log as JSON lines in `log.jsonl`; a model that ships without its run carries the same lines as
a list in `training.json`. This module does not know how curves are drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssd1b.base.errors import MissingFileError
from ssd1b.distill import journal

PARTS = ("task", "output", "feature")
POINTS = 160
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curves:
    """Losses over the steps of a whole run, unweighted, and the step at which each stage ends."""

    parts: Mapping[str, tuple[Point, ...]]
    stages: tuple[tuple[str, int], ...]
    source: str


def of_model(folder: Path) -> Curves | None:
    """The curves of the run a model folder came from, if they are there: beside the model or in its run."""
    for path in (folder / "training.json", folder / "log.jsonl", folder.parent / "log.jsonl"):
        if path.is_file() and (curves := of_lines(_lines(path), str(path))):
            return curves
    return None


def of_run(folder: Path) -> Curves:
    """The curves of a run's folder.

    Raises:
        MissingFileError: there is no log, or nothing is logged yet.
    """
    log = folder / "log.jsonl"
    curves = of_lines(journal.read(log), str(log)) if log.is_file() else None
    if curves is None:
        raise MissingFileError(f"{folder} holds no log.jsonl with losses. Give the folder of a run.")
    return curves


def of_lines(lines: Sequence[Mapping[str, object]], source: str = "") -> Curves | None:
    """The curves of a log's lines; None when no line has losses."""
    logged = [line for line in lines if isinstance(line.get("losses"), Mapping)]
    parts = {name: thinned(list(_points(logged, name))) for name in PARTS}
    shown = {name: points for name, points in parts.items() if points}
    if not shown:
        return None
    ends: dict[str, int] = {}
    for line in logged:
        ends[str(line.get("stage", ""))] = int(_number(line.get("total")))
    return Curves(shown, tuple(ends.items()), source)


def thinned(points: Sequence[Point], most: int = POINTS) -> tuple[Point, ...]:
    """At most `most` points, each the mean of its neighbours, so that a noisy curve can be read."""
    size = max(1, -(-len(points) // most))
    cut = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple((sum(x for x, _ in some) / len(some), sum(y for _, y in some) / len(some)) for some in cut)


def _points(lines: Sequence[Mapping[str, object]], name: str) -> Iterator[Point]:
    for line in lines:
        losses = line["losses"]
        if isinstance(losses, Mapping) and name in losses and _number(losses[name]) > 0:
            yield _number(line.get("total")), _number(losses[name])


def _lines(path: Path) -> list[Mapping[str, object]]:
    if path.suffix == ".jsonl":
        return list(journal.read(path))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return []
    lines = found.get("lines", found.get("log", [])) if isinstance(found, dict) else found
    return [line for line in lines if isinstance(line, dict)] if isinstance(lines, list) else []


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
