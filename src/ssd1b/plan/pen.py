"""SVG by small pieces: boxes, texts, arrows, in one set of colours.

Coordinates are pixels, y grows downwards. This module does not know what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape

INK, SOFT, FAINT, PAPER, BAND = "#1f2733", "#667085", "#a9b1bf", "#ffffff", "#f5f7fa"
RESIDUAL, TRANSFORMER, SAMPLER, SHELL, SKIP = "#e8963a", "#2f6fb7", "#2f9e86", "#dbe8f6", "#8a94a6"
GHOST_LINE, GHOST_TEXT = "#c3cad5", "#aab2bf"
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"

_DEFS = f"""<defs>
<pattern id="ghost" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
<rect width="6" height="6" fill="#fbfcfd"/><rect width="2" height="6" fill="#e9edf2"/></pattern>
<marker id="tip-flow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0,0.5 L8,4 L0,7.5 z" fill="{INK}"/></marker>
<marker id="tip-skip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0,0.5 L8,4 L0,7.5 z" fill="{SKIP}"/></marker>
</defs>"""


def page(width: float, height: float, title: str, pieces: Iterable[str]) -> str:
    """Return a whole SVG document with a white background and `title` for screen readers."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}"'
        f' viewBox="0 0 {width:g} {height:g}" role="img" font-family="{FONT}">'
    )
    paper = f'<rect width="100%" height="100%" fill="{PAPER}"/>'
    return "\n".join((head, f"<title>{escape(title)}</title>", _DEFS, paper, *pieces, "</svg>", ""))


def box(x: float, y: float, width: float, height: float, fill: str, *, radius: float = 4) -> str:
    """Return a filled rectangle with round corners."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}"/>'


def ghost(x: float, y: float, width: float, height: float) -> str:
    """Return the hatched, dashed outline of something that is not there any more."""
    return (
        f'<rect x="{x + 0.5:g}" y="{y + 0.5:g}" width="{width - 1:g}" height="{height - 1:g}" rx="4"'
        f' fill="url(#ghost)" stroke="{GHOST_LINE}" stroke-dasharray="3 2.5"/>'
    )


def outline(x: float, y: float, width: float, height: float) -> str:
    """Return the dashed outline of a frame that is not there any more."""
    return (
        f'<rect x="{x + 0.5:g}" y="{y + 0.5:g}" width="{width - 1:g}" height="{height - 1:g}" rx="7"'
        f' fill="none" stroke="{GHOST_LINE}" stroke-dasharray="3 2.5"/>'
    )


def cell(x: float, y: float, size: tuple[float, float], words: str, fill: str | None) -> str:
    """Return one labelled layer; `y` is its centre line. Without a fill it is a ghost."""
    width, height = size
    ink = GHOST_TEXT if fill is None else PAPER
    place = (x, y - height / 2, width, height)
    label = text((x + width / 2, y + 4.2), words, bold=fill is not None, fill=ink, anchor="middle")
    return (ghost(*place) if fill is None else box(*place, fill)) + label


def text(
    at: tuple[float, float],
    words: str,
    *,
    size: float = 12,
    fill: str = INK,
    bold: bool = False,
    anchor: str = "start",
) -> str:
    """Return one line of text; `at` is on its base line, `anchor` one of start, middle, end."""
    style = f'font-size="{size:g}" fill="{fill}" text-anchor="{anchor}"' + ' font-weight="600"' * bold
    return f'<text x="{at[0]:g}" y="{at[1]:g}" {style}>{escape(words)}</text>'


def arrow(points: Iterable[tuple[float, float]]) -> str:
    """Return an arrow of the running order along straight pieces."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    style = f'fill="none" stroke="{INK}" stroke-width="1.4" marker-end="url(#tip-flow)"'
    return f'<polyline points="{path}" {style}/>'


def link(x0: float, y: float, x1: float) -> str:
    """Return a short line without a tip."""
    return f'<path d="M{x0:g},{y:g} H{x1:g}" stroke="{INK}" stroke-width="1.4"/>'


def skip(start: tuple[float, float], end: tuple[float, float]) -> str:
    """Return a skip connection: a thin arrow, level at both ends."""
    (x0, y0), (x1, y1) = start, end
    reach = (x1 - x0) / 2
    return (
        f'<path d="M{x0:g},{y0:g} C{x0 + reach:g},{y0:g} {x1 - reach:g},{y1:g} {x1:g},{y1:g}" fill="none"'
        f' stroke="{SKIP}" stroke-width="1.2" stroke-dasharray="5 3" marker-end="url(#tip-skip)"/>'
    )
