"""What a grid varies: "steps=4,8,25" along one side, "guidance=3,7" along the other.

Does not know how a grid is drawn, nor models: every picture of it is one model's.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ssd1b.base.errors import RequestError, did_you_mean
from ssd1b.generate.request import Request, request_of

MAX_PICTURES = 400

_READ: dict[str, Callable[[str], object]] = {
    "steps": int,
    "guidance": float,
    "scheduler": str,
    "seed": int,
    "strength": float,
    "hires": float,
    "hires_strength": float,
    "hires_upscaler": str,
    "guidance_until": float,
    "reuse": int,
    "prompt": str,
    "negative": str,
}


@dataclass(frozen=True, slots=True)
class Axis:
    """One field of a request and the values it takes."""

    field: str
    values: tuple[object, ...]

    def labels(self) -> list[str]:
        """What is written along the grid; texts stand for themselves."""
        if self.field in ("prompt", "negative", "scheduler"):
            return [str(value) or "(nothing)" for value in self.values]
        said = [f"{value:g}" if isinstance(value, float) else str(value) for value in self.values]
        return [f"{self.field.replace('_', ' ')} {value}" for value in said]


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """Read one or two of "field=value,value"; a value with a comma in it goes between double quotes.

    Raises:
        RequestError: not of this form, an unknown field, a value that is none, or far too many pictures.
    """
    axes = [_axis(text) for text in texts]
    if len(axes) > 2 or len({axis.field for axis in axes}) < len(axes):
        raise RequestError("A grid has two sides: give --xy once or twice, with different fields.")
    n_pictures = 1
    for axis in axes:
        n_pictures *= len(axis.values)
    if n_pictures > MAX_PICTURES:
        raise RequestError(f"The grid would have {n_pictures} pictures; up to {MAX_PICTURES} are drawn.")
    return axes


def spread(request: Request, axes: Sequence[Axis]) -> list[Request]:
    """The requests of a grid, row by row: the first axis runs across, the second down.

    Raises:
        RequestError: a value is out of range.
    """
    across, down = axes[0], axes[1] if len(axes) > 1 else Axis("", (None,))
    fields = request.model_dump()
    rows = [{down.field: value} if down.field else {} for value in down.values]
    return [request_of({**fields, **row, across.field: value}) for row in rows for value in across.values]


def _axis(text: str) -> Axis:
    name, equals, said = text.partition("=")
    field = name.strip().replace("-", "_")
    if not equals or not said.strip():
        raise RequestError(f"'{text}' is no side of a grid. Write a field and its values: steps=4,8,25.")
    if field not in _READ:
        hint = did_you_mean(field, _READ)
        raise RequestError(f"A grid cannot vary '{field}'.{hint} It varies: {', '.join(_READ)}.")
    values = [value.strip() for value in next(csv.reader([said], skipinitialspace=True))]
    try:
        return Axis(field, tuple(_READ[field](value) for value in values))
    except ValueError as error:
        kind = "whole numbers" if _READ[field] is int else "numbers"
        raise RequestError(f"'{said}' is not a list of {kind}, as {field} takes them.") from error
