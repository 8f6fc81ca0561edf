"""A comparison as Markdown, with the pictures in one sheet beside it.

For places that show no HTML: a repository, a model card. This module does not know how anything was measured.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from ssd1b.base.units import human_bytes, human_count, human_flops, human_seconds
from ssd1b.evaluate.comparison import Comparison, Entry, Shot, percent
from ssd1b.evaluate.prompts import KINDS

PICTURES, SIZES = "pictures.png", "sizes.png"
_GAP, _LINE, _SIDE = 8, 20, 160


def markdown(comparison: Comparison, assets: str = "assets") -> str:
    """Return the report; pictures and drawings are named as `sheets` and `drawings` name them."""
    return "\n\n".join(_paragraphs(comparison, assets)) + "\n"


def sheets(comparison: Comparison) -> dict[str, bytes]:
    """The pictures as PNG sheets, by file name: one row a model, one column a prompt or size."""
    made = {}
    for name, shots in ((PICTURES, comparison.shots), (SIZES, comparison.aspects)):
        if shots:
            made[name] = _sheet(comparison.entries, shots)
    return made


def drawings(comparison: Comparison) -> Mapping[str, str]:
    """The plan drawings as SVG, by file name."""
    return {f"plan-{drawing.plan}.svg": drawing.svg for drawing in comparison.drawings}


def _paragraphs(comparison: Comparison, assets: str) -> Iterator[str]:
    yield f"# {comparison.title}"
    yield _plain(comparison.headline())
    if comparison.shots:
        yield "## The same prompt, the same noise"
        yield f"![one row a model, one column a prompt]({assets}/{PICTURES})"
        yield "\n".join(f"{number}. {shot.text}" for number, shot in enumerate(comparison.shots, 1))
    if comparison.aspects:
        yield "## Nine aspect ratios"
        yield f"![one row a model, one column a size]({assets}/{SIZES})"
    yield "## Size, work and time"
    yield _figures(comparison)
    if any(entry.scores is not None for entry in comparison.entries):
        yield "## Scores"
        yield "Shares of pictures that show what was asked, with 95 % intervals."
        yield _scores(comparison)
    if comparison.ablation is not None:
        yield "## What the teacher is worth"
        yield _ablation(comparison)
    for name in drawings(comparison):
        yield f"## {name.removeprefix('plan-').removesuffix('.svg')}: what was kept"
        yield f"![layers kept and removed]({assets}/{name})"
    yield "## How this was measured"
    yield "\n".join(f"- {name}: {said}" for name, said in comparison.facts.items())


def _figures(comparison: Comparison) -> str:
    rows = [
        (
            entry.name,
            human_count(entry.size.params),
            human_bytes(entry.size.unet_bytes),
            human_flops(entry.size.flops),
            human_seconds(entry.speed.seconds),
            f"{comparison.speedup(entry):.2f} ×",
        )
        for entry in comparison.entries
    ]
    return _table(("model", "UNet parameters", "file", "one UNet call", "per picture", "speed-up"), rows)


def _scores(comparison: Comparison) -> str:
    rows = []
    for entry in comparison.entries:
        if entry.scores is not None:
            parts = [entry.scores.overall, *(entry.scores.kinds[kind] for kind in KINDS)]
            cells = [f"{percent(one.score)} ({100 * one.low:.0f}–{100 * one.high:.0f})" for one in parts]
            rows.append((entry.name, *map(_plain, cells)))
    return _table(("model", "overall", *(kind.replace("_", " ") for kind in KINDS)), rows)


def _ablation(comparison: Comparison) -> str:
    assert comparison.ablation is not None, "only called where there is one"
    rows = []
    for arm in comparison.ablation.arms:
        interval = arm.interval
        ends = f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})" if interval else ""
        seeds = str(len(arm.values))
        cost = human_count(arm.samples), human_seconds(arm.seconds)
        rows.append((arm.name, *cost, seeds, _plain(percent(arm.mean, 1)) + ends))
    return _table(("training", "samples", "time", "seeds", "overall"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """With plain blanks instead of those that do not break."""
    return text.replace("\u00a0", " ")


def _sheet(entries: Sequence[Entry], shots: Sequence[Shot]) -> bytes:
    longest = max(max(shot.px) for shot in shots)
    scale = min(1.0, _SIDE / longest)
    sides = [(round(shot.px[0] * scale), round(shot.px[1] * scale)) for shot in shots]
    row_high = _LINE + max(height for _, height in sides) + _GAP
    wide = sum(width + _GAP for width, _ in sides) + _GAP
    sheet = Image.new("RGB", (wide, row_high * len(entries) + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, entry in enumerate(entries):
        pen.text((_GAP, row * row_high + 3), entry.name, "#1f2733", font)
        x = _GAP
        for shot, (width, height) in zip(shots, sides, strict=True):
            with Image.open(io.BytesIO(shot.pictures[row].data)) as file:
                picture = file.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(picture, (x, row * row_high + _LINE))
            x += width + _GAP
    data = io.BytesIO()
    sheet.save(data, "PNG", optimize=True)
    return data.getvalue()
