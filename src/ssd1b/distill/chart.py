"""A small writer of line charts as SVG: panels one below the other over one axis of steps.

Knows numbers, colours and where ink goes. Does not know what the lines mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH_PX = 960
_LEFT, _RIGHT, _TOP, _GAP = 64, 216, 64, 58
_GRID, _AXIS, _BAND = "#e6e8ee", "#c3c8d2", "#f6f7fa"
_STYLE = """<style>
text { font-family: Inter, "Segoe UI", Helvetica, Arial, "DejaVu Sans", sans-serif; fill: #1f2430 }
.title { font-size: 17px; font-weight: 600 } .panel { font-size: 12.5px; font-weight: 600 }
.name { font-size: 11.5px } .faint { font-size: 11px; fill: #6b7280 }
</style>"""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. `smooth` draws a faint raw line under a bold average; without a label it has no legend."""

    label: str
    colour: str
    points: Sequence[Point]
    smooth: bool = True


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart of its own height; a log scale if `log` and all values are positive."""

    title: str
    lines: Sequence[Line]
    height_px: int = 240
    log: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """A named stretch of the x axis."""

    label: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class _Box:
    """A panel's place and scales."""

    top: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool

    def at_x(self, value: float) -> float:
        low, high = self.x
        return _LEFT + (value - low) / max(high - low, 1e-9) * (WIDTH_PX - _LEFT - _RIGHT)

    def at_y(self, value: float) -> float:
        low, high = (math.log10(v) for v in self.y) if self.log else self.y
        height = (math.log10(value) if self.log else value) - low
        return self.top + self.height * (1 - height / max(high - low, 1e-12))


def svg(title: str, subtitle: str, panels: Sequence[Panel], spans: Sequence[Span]) -> str:
    """The whole picture. Panels without points are left out; with none at all a sentence says so."""
    shown = [panel for panel in panels if any(line.points for line in panel.lines)]
    height = _TOP + sum(panel.height_px + _GAP for panel in shown) if shown else 140
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH_PX} {height}' width='{WIDTH_PX}' "
        f"height='{height}'>",
        _STYLE,
        f"<rect width='{WIDTH_PX}' height='{height}' rx='10' fill='#ffffff'/>",
        _text(24, 30, title, "title"),
        _text(24, 49, subtitle, "faint"),
    ]
    if not shown:
        out.append(_text(24, 96, "Nothing has been logged yet.", "faint"))
    xs = [x for panel in shown for line in panel.lines for x, _ in line.points]
    top = float(_TOP + 22)
    for panel in shown:
        box = _box(panel, top, (min(0.0, *xs), max(xs)))
        out += _draw_panel(panel, box, spans)
        top += panel.height_px + _GAP
    return "\n".join([*out, "</svg>\n"])


def _box(panel: Panel, top: float, x: tuple[float, float]) -> _Box:
    values = [y for line in panel.lines for _, y in line.points]
    log = panel.log and min(values) > 0
    if not log:
        return _Box(top, panel.height_px, x, (min(0.0, *values), max(values) * 1.06 or 1.0), log)
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 500], ordered[-1 - len(ordered) // 500]  # stray peaks may leave
    return _Box(top, panel.height_px, x, (low / 1.15, max(high, low * 1.5) * 1.15), log)


def _draw_panel(panel: Panel, box: _Box, spans: Sequence[Span]) -> Iterator[str]:
    right, bottom = WIDTH_PX - _RIGHT, box.top + box.height
    yield _text(_LEFT, box.top - 9, panel.title, "panel")
    for number, span in enumerate(spans):
        start, end = box.at_x(span.start), box.at_x(span.end)
        if number % 2 == 1:
            size = f"width='{end - start:.1f}' height='{box.height}'"
            yield f"<rect x='{start:.1f}' y='{box.top:.1f}' {size} fill='{_BAND}'/>"
        if len(spans) > 1:
            yield _text(end - 5, box.top + 14, span.label, "faint", "end")
    for value in _ticks(box):
        y = box.at_y(value)
        yield f"<path d='M{_LEFT} {y:.1f}H{right}' stroke='{_GRID}'/>"
        yield _text(_LEFT - 8, y + 4, _number(value), "faint", "end")
    for value in _even_ticks(*box.x):
        yield _text(box.at_x(value), bottom + 17, _number(value), "faint", "middle")
    yield f"<path d='M{_LEFT} {bottom:.1f}H{right}' stroke='{_AXIS}'/>"
    for line in (line for line in panel.lines if line.points):
        yield from _draw_line(line, box)
    yield from _legend(panel, box)


def _draw_line(line: Line, box: _Box) -> Iterator[str]:
    if line.smooth:
        yield _path(_thinned(line.points, 500), line.colour, box, width=1.0, opacity=0.22)
        yield _path(_thinned(smoothed(line.points), 200), line.colour, box, width=2.0)
    else:
        yield _path(_thinned(line.points, 120), line.colour, box, width=1.3, opacity=0.85)


def _legend(panel: Panel, box: _Box) -> Iterator[str]:
    """Names at the ends of their curves, pushed apart where they would overlap."""
    ends = [(line, smoothed(line.points)[-1][1]) for line in panel.lines if line.label and line.points]
    taken = -1e9
    for line, value in sorted(ends, key=lambda end: -end[1]):
        y = max(min(max(box.at_y(value), box.top), box.top + box.height), taken + 15)
        taken = y
        x = WIDTH_PX - _RIGHT + 10
        yield f"<circle cx='{x}' cy='{y:.1f}' r='3.5' fill='{line.colour}'/>"
        yield _text(x + 9, y + 4, f"{line.label} {_number(value)}", "name")


def smoothed(points: Sequence[Point]) -> list[Point]:
    """An exponential average whose memory is a fortieth of the curve; begins at the first value."""
    share = 1.0 / max(1.0, len(points) / 40)
    out: list[Point] = []
    for x, y in points:
        out.append((x, y if not out else out[-1][1] + share * (y - out[-1][1])))
    return out


def _thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` points: means of neighbours."""
    step = max(1, math.ceil(len(points) / most))
    groups = (points[i : i + step] for i in range(0, len(points), step))
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _path(points: Sequence[Point], colour: str, box: _Box, *, width: float, opacity: float = 1.0) -> str:
    low, high = box.y
    pairs = ((box.at_x(x), box.at_y(min(max(y, low), high))) for x, y in points)
    d = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(pairs))
    return (
        f"<path d='{d}' fill='none' stroke='{colour}' stroke-width='{width}' stroke-opacity='{opacity}' "
        "stroke-linejoin='round' stroke-linecap='round'/>"
    )


def _ticks(box: _Box) -> list[float]:
    low, high = box.y
    if not box.log:
        return _even_ticks(low, high, at_most=max(2, int(box.height / 34)))
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
        if len(ticks) <= 7:
            break
    return ticks


def _even_ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    rough = max(high - low, 1e-12) / at_most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.0e}" if abs(value) < 1e-3 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f"<text class='{kind}' x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(words)}</text>"
