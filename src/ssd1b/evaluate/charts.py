"""Small charts for the report: bars with whiskers, stacked bars, dots with intervals, loss curves.

Each is a piece of HTML with SVG in it that takes the width it is given: lengths along x are percentages, so
text never shrinks. Colours are classes (`m0` for the first model, ...) that the style sheet gives a light and
a dark value. This module does not know models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from ssd1b.evaluate.losses import Curves, Point

LINES_HIGH = 190


def bar(share: float, low: float, high: float, colour: str) -> str:
    """A horizontal bar from 0 to `share` (0..1) with a whisker over its interval."""
    middle = 9
    return (
        '<svg class="bar" height="18" aria-hidden="true">'
        f'<rect class="track" width="100%" height="8" y="5" rx="4"/>'
        f'<rect class="{colour}" width="{_pc(share)}" height="8" y="5" rx="4"/>'
        f'<line class="whisker" x1="{_pc(low)}" x2="{_pc(high)}" y1="{middle}" y2="{middle}"/>'
        + "".join(
            f'<line class="whisker" x1="{_pc(end)}" x2="{_pc(end)}" y1="{middle - 4}" y2="{middle + 4}"/>'
            for end in (low, high)
        )
        + "</svg>"
    )


def stack(parts: Sequence[tuple[str, float]], most: float) -> str:
    """A horizontal bar of parts laid end to end; `most` is the value that fills the width."""
    pieces, at = [], 0.0
    for kind, value in parts:
        place = f'x="{_pc(at / most)}" width="{_pc(value / most)}" y="2" height="14"'
        pieces.append(f'<rect class="{escape(kind)}" {place}/>')
        at += value
    return f'<svg class="bar" height="18" aria-hidden="true">{"".join(pieces)}</svg>'


def strip(
    values: Sequence[float],
    middle: float,
    interval: tuple[float, float] | None,
    scale: tuple[float, float],
    mark: float | None,
) -> str:
    """Dots on a line: one per value, a bar for the mean, a line for its interval, a mark for comparison."""
    low, high = scale

    def at(value: float) -> str:
        return _pc((value - low) / (high - low))

    pieces = ['<line class="axis" x1="0" x2="100%" y1="14" y2="14"/>']
    if mark is not None:
        pieces.append(f'<line class="mark" x1="{at(mark)}" x2="{at(mark)}" y1="0" y2="28"/>')
    if interval is not None:
        ends = max(low, interval[0]), min(high, interval[1])
        pieces.append(f'<line class="interval" x1="{at(ends[0])}" x2="{at(ends[1])}" y1="14" y2="14"/>')
    pieces += [f'<circle class="dot" cx="{at(value)}" cy="14" r="4"/>' for value in values]
    pieces.append(f'<line class="mean" x1="{at(middle)}" x2="{at(middle)}" y1="5" y2="23"/>')
    return f'<svg class="strip" height="28" aria-hidden="true">{"".join(pieces)}</svg>'


def ticks(scale: tuple[float, float], step: float) -> str:
    """The numbers under a strip, as percentages."""
    low, high = scale
    count = round((high - low) / step)
    marks = [low + step * n for n in range(count + 1)]
    spans = "".join(
        f'<span style="left:{_pc((mark - low) / (high - low))}">{round(100 * mark)} %</span>'
        for mark in marks
    )
    return f'<div class="ticks">{spans}</div>'


def round_scale(values: Sequence[float]) -> tuple[tuple[float, float], float]:
    """A scale of whole steps that holds all shares, and the step."""
    step = 0.1 if max(values) - min(values) > 0.25 else 0.05
    low = math.floor(min(values) / step) * step
    high = math.ceil(max(values) / step) * step
    return (max(0.0, round(low, 2)), min(1.0, round(max(high, low + 2 * step), 2))), step


def curves(shown: Curves, names: Mapping[str, str]) -> str:
    """Loss curves over steps, the losses on a logarithmic scale, stages divided by thin lines.

    Args:
        shown: the curves, one colour class per part.
        names: what each part is called.
    """
    every = [point for points in shown.parts.values() for point in points]
    last = max([x for x, _ in every] + [end for _, end in shown.stages]) or 1.0
    low, high = _decades([y for _, y in every])

    def place(point: Point) -> str:
        x, y = point
        return f"{1000 * x / last:.1f},{LINES_HIGH * (high - math.log10(y)) / (high - low):.1f}"

    lines = "".join(
        f'<polyline class="{part}" points="{" ".join(map(place, points))}"/>'
        for part, points in shown.parts.items()
    )
    ends = [end / last for _, end in shown.stages[:-1]]
    walls = "".join(
        f'<line class="wall" x1="{1000 * end:.1f}" x2="{1000 * end:.1f}" y1="0" y2="{LINES_HIGH}"/>'
        for end in ends
    )
    grid, labels = _grid(low, high)
    legend = "".join(
        f'<span><i class="{part}"></i>{escape(names.get(part, part))}</span>' for part in shown.parts
    )
    return (
        f'<div class="legend">{legend}</div><div class="curves"><div class="ylabels">{labels}</div>'
        f'<svg class="plot" viewBox="0 0 1000 {LINES_HIGH}" preserveAspectRatio="none" aria-hidden="true">'
        f"{grid}{walls}{lines}</svg></div>"
        f'<div class="xlabels"><span>0</span>{_stage_names(shown, last)}<span>{last:,.0f} steps</span></div>'
    )


def _stage_names(shown: Curves, last: float) -> str:
    """The stages' names under their stretch; left out where there is only one."""
    if len(shown.stages) < 2:
        return ""
    starts = [0.0, *(end / last for _, end in shown.stages[:-1])]
    ends = [end / last for _, end in shown.stages]
    return "".join(
        f'<em style="left:{_pc(start)};width:{_pc(end - start)}">{escape(name)}</em>'
        for (name, _), start, end in zip(shown.stages, starts, ends, strict=True)
    )


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """The logarithms between which all values lie, with a little air."""
    low, high = math.log10(min(values)), math.log10(max(values))
    air = max(0.05, 0.06 * (high - low))
    return low - air, high + air


def _grid(low: float, high: float) -> tuple[str, str]:
    """Lines and labels at 1, 2 and 5 of each decade, or only at 1 where that would be many."""
    factors = (1, 2, 5) if high - low < 2.2 else (1,)
    marks = [
        factor * 10.0**decade
        for decade in range(math.floor(low), math.ceil(high) + 1)
        for factor in factors
        if low <= math.log10(factor * 10.0**decade) <= high
    ]
    lines, labels = [], []
    for mark in marks:
        share = (high - math.log10(mark)) / (high - low)
        y = LINES_HIGH * share
        lines.append(f'<line class="grid" x1="0" x2="1000" y1="{y:.1f}" y2="{y:.1f}"/>')
        labels.append(f'<span style="top:{_pc(share)}">{mark:g}</span>')
    return "".join(lines), "".join(labels)


def _pc(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"
