"""The two pictures of a model card, as SVG: seconds per UNet step, and a picture's time by part.

Plain SVG that any browser and any Markdown page shows, light and dark. Does not know how the numbers came.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ssd1b.base.units import human_seconds
from ssd1b.evaluate.speed.record import Bench, Case

WIDE, LEFT, RIGHT, ROW, GAP, TOP = 760, 190, 120, 22, 14, 64
_STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #1d2530 } .title { font-weight: 600; font-size: 16px }
.note { fill: #66707d; font-size: 12px } .m0 { fill: #8a94a3 } .m1 { fill: #2f6fde } .m2 { fill: #1d9a6c }
.m3 { fill: #c77d1e } .m4 { fill: #a44fb8 } .text { fill: #c77d1e } .unet { fill: #2f6fde }
.decode { fill: #1d9a6c } .card { fill: #fff }
@media (prefers-color-scheme: dark) { text { fill: #e6e9ee } .note { fill: #9aa4b2 } .card { fill: #14181e } }
</style>"""
PART_NAMES = {"text": "text", "unet": "UNet", "decode": "decoder"}


def step_chart(bench: Bench, px: tuple[int, int]) -> str:
    """Seconds of one UNet call: a group of bars per engine, a colour per model."""
    cases = [case for case in bench.cases if case.px == px and "unet" in case.parts]
    models = list(dict.fromkeys(case.model for case in cases))
    engines = list(dict.fromkeys(case.engine for case in cases))
    most = max((case.parts["unet"].median for case in cases), default=1.0)
    pieces, y = [_legend([(f"m{n % 5}", model) for n, model in enumerate(models)])], TOP
    for engine in engines:
        group = [case for case in cases if case.engine == engine]
        pieces.append(_label(engine, y + ROW * len(group) / 2))
        for case in group:
            seconds = case.parts["unet"].median
            pieces.append(_bar(f"m{models.index(case.model) % 5}", 0.0, seconds / most, y))
            pieces.append(_number(human_seconds(seconds), seconds / most, y))
            y += ROW
        y += GAP
    return _page(f"One UNet step, {px[0]}x{px[1]}, one picture", _where(bench), pieces, y)


def picture_chart(bench: Bench, px: tuple[int, int]) -> str:
    """Seconds of a whole picture with guidance, its parts end to end."""
    cases = [case for case in bench.cases if case.px == px and case.picture_s(bench.steps) is not None]
    most = max((case.picture_s(bench.steps) or 0.0 for case in cases), default=1.0)
    pieces, y = [_legend(list(PART_NAMES.items()))], TOP
    for case in cases:
        pieces.append(_label(f"{case.model}, {case.engine}", y + ROW / 2))
        at = 0.0
        for part, seconds in _shares(case, bench.steps):
            pieces.append(_bar(part, at / most, seconds / most, y))
            at += seconds
        pieces.append(_number(human_seconds(at), at / most, y))
        y += ROW + GAP // 2
    title = f"One picture, {px[0]}x{px[1]}, {bench.steps} steps with guidance (added up from its parts)"
    return _page(title, _where(bench), pieces, y)


def _shares(case: Case, steps: int) -> Sequence[tuple[str, float]]:
    text, unet, decode = (case.parts[part].median for part in ("text", "unet", "decode"))
    return (("text", 2 * text), ("unet", 2 * steps * unet), ("decode", decode))


def _where(bench: Bench) -> str:
    return f"{bench.machine.get('processor', 'a processor')}, {bench.machine.get('threads', '?')} threads"


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    pieces, x = [], LEFT
    for colour, name in entries:
        pieces.append(f'<rect class="{colour}" x="{x}" y="40" width="12" height="12" rx="2"/>')
        pieces.append(f'<text x="{x + 18}" y="51">{escape(name)}</text>')
        x += 34 + 8 * len(name)
    return "".join(pieces)


def _label(text: str, y: float) -> str:
    return f'<text x="{LEFT - 12}" y="{y + 1:.0f}" text-anchor="end">{escape(text)}</text>'


def _bar(colour: str, start: float, share: float, y: float) -> str:
    room = WIDE - LEFT - RIGHT
    place = f'x="{LEFT + room * start:.1f}" width="{max(1.0, room * share):.1f}"'
    return f'<rect class="{colour}" {place} y="{y:.0f}" height="{ROW - 6}" rx="2"/>'


def _number(text: str, share: float, y: float) -> str:
    x = LEFT + (WIDE - LEFT - RIGHT) * share + 8
    return f'<text x="{x:.1f}" y="{y + 13:.0f}">{escape(text)}</text>'


def _page(title: str, note: str, pieces: Sequence[str], height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {height + 26:.0f}" width="{WIDE}">'
        f'{_STYLE}<rect class="card" width="100%" height="100%"/>'
        f'<text class="title" x="16" y="26">{escape(title)}</text>{"".join(pieces)}'
        f'<text class="note" x="16" y="{height + 14:.0f}">{escape(note)}</text></svg>\n'
    )
