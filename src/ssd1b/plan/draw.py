"""A layer plan as a picture: the U as a person would sketch it, in SVG.

Every residual block and every transformer block of the teacher is one cell: filled where the student keeps
it, hatched where it does not. A frame around transformer blocks is their attention site. This module does not
know coordinates (`plan.layout`) or colours (`plan.pen`), only what is there and what is gone.
"""

from __future__ import annotations

from collections.abc import Iterator

from ssd1b.base.units import human_count, human_flops
from ssd1b.plan import count, pen
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.layout import (
    APART,
    CELL,
    CELL_HIGH,
    GAP,
    HEAD,
    MARGIN,
    PAD,
    PILL,
    PILL_HIGH,
    RESIDUAL,
    ROW,
    STEP,
    TAIL,
    Layout,
    Spot,
)
from ssd1b.plan.shape import MID

Pieces = Iterator[str]
Stop = tuple[float, float, bool]
"""A place on a spine: centre line, half its height, whether it is still there."""


def svg(plan: LayerPlan) -> str:
    """Return the drawing of a plan as an SVG document, about 1000 by 960 pixels for SDXL's topology."""
    lay = Layout(plan.teacher)
    parts = (_title, _bands, _skips, _cells, _middle, _samplers, _flow, _through_the_middle, _legend)
    pieces = (piece for part in parts for piece in part(plan, lay))
    return pen.page(lay.width, lay.height, f"{plan.name}: {plan.about}", pieces)


def _title(plan: LayerPlan, lay: Layout) -> Pieces:
    shapes, px = (plan.teacher, plan.shape), count.native_px(plan.teacher)
    before, after = map(count.parameters, shapes)
    resnets = [sum(map(shape.resnets, shape.blocks)) for shape in shapes]
    share = "" if plan.keeps_everything else f"  ({after / before:.1%})"
    flops = [human_flops(count.flops(shape, px, px)) for shape in shapes]
    facts = (
        f"{_change(*(shape.transformer_blocks for shape in shapes))} transformer blocks",
        f"{_change(*resnets)} residual blocks",
        f"{_change(*flops)} for one call at {px}×{px}",
    )
    yield pen.text((MARGIN, 48), plan.name, size=26, bold=True)
    yield pen.text((lay.width - MARGIN, 48), plan.about, size=14, fill=pen.SOFT, anchor="end")
    amount = f"{_change(f'{before:,}', f'{after:,}')} parameters{share}"
    yield pen.text((MARGIN, 78), amount, size=17, bold=True)
    yield pen.text((MARGIN, 101), " · ".join(facts), size=13, fill=pen.SOFT)


def _change(before: object, after: object) -> str:
    return str(before) if before == after else f"{before} → {after}"


def _bands(plan: LayerPlan, lay: Layout) -> Pieces:
    """The resolution levels and the middle: background, names, parameters."""
    before, after = count.parts(plan.teacher), count.parts(plan.shape)
    side = plan.teacher.sample_size
    for level, channels in enumerate(plan.teacher.channels):
        top = lay.top(level)
        yield pen.box(MARGIN - 14, top, lay.width - 2 * MARGIN + 28, lay.band, pen.BAND, radius=12)
        words = f"{channels} channels, {side}×{side}"
        yield pen.text(
            ((lay.right + MARGIN + lay.column) / 2, top + 24), words, fill=pen.SOFT, anchor="middle"
        )
        side = (side + 1) // 2
    if plan.teacher.mid_resnets:
        x, wide, high = lay.mid[0] - 20, lay.mid_wide + 40, HEAD + ROW + TAIL
        yield pen.box(x, lay.mid_top, wide, high, pen.BAND, radius=12)
    for block in plan.teacher.blocks:
        x, top, wide = _heading(lay, block)
        amounts = _change(human_count(before[block]), human_count(after.get(block, 0)))
        yield pen.text((x, top + 24), block, size=13, bold=True)
        yield pen.text((x + wide, top + 24), amounts, anchor="end")


def _heading(lay: Layout, block: str) -> tuple[float, float, float]:
    """Return (left edge, upper edge of the band, width) of a block's heading, clear of the spine."""
    if block == MID:
        return lay.mid[0], lay.mid_top, lay.mid_wide
    x = lay.spines[block.startswith("up_")] + 16
    return x, lay.top(lay.shape.level(block)), lay.column - RESIDUAL / 2 - 16 - 2 * PAD


def _cells(plan: LayerPlan, lay: Layout) -> Pieces:
    for block in plan.teacher.blocks:
        if block == MID:
            continue
        for index in range(plan.teacher.resnets(block)):
            x, y = lay.layer(block, index)
            yield _residual((x, y), index in plan.resnets[block])
            yield from _site(plan, f"{block}.attentions.{index}", (x + RESIDUAL, y))


def _middle(plan: LayerPlan, lay: Layout) -> Pieces:
    x, y = lay.mid
    for index in range(plan.teacher.mid_resnets):
        stays = index in plan.resnets[MID]
        if index and stays:
            yield pen.link(x - APART, y, x)
        yield _residual((x, y), stays)
        x += RESIDUAL
        site = f"{MID}.attentions.{index}"
        if site in plan.teacher.depths:
            yield from _site(plan, site, (x, y))
            x += lay.site(plan.teacher.depths[site])
        x += APART


def _residual(spot: Spot, stays: bool) -> str:
    return pen.cell(*spot, (RESIDUAL, CELL_HIGH), "Res", pen.RESIDUAL if stays else None)


def _site(plan: LayerPlan, site: str, spot: Spot) -> Pieces:
    """One attention site if there is one: its frame (norm, projections), its numbered transformer blocks."""
    if site not in plan.teacher.depths:
        return
    depth, kept = plan.teacher.depths[site], plan.kept.get(site)
    x, y = spot[0] + APART, spot[1]
    wide, high = Layout.site(depth) - APART, CELL_HIGH + 2 * (PAD - 2)
    if kept is None:
        yield pen.outline(x, y - high / 2, wide, high)
    else:
        yield pen.link(x - APART, y, x)
        yield pen.box(x, y - high / 2, wide, high, pen.SHELL, radius=7)
    for index in range(depth):
        fill = pen.TRANSFORMER if index in (kept or ()) else None
        yield pen.cell(x + PAD + index * STEP, y, (CELL, CELL_HIGH), str(index), fill)


def _samplers(plan: LayerPlan, lay: Layout) -> Pieces:
    """What opens and closes each level, and the two ends of the U."""
    for level in range(len(plan.teacher.channels)):
        for spot, inner, end in (
            (lay.opening(level), "downsample", "conv_in"),
            (lay.closing(level), "upsample", "conv_out"),
        ):
            yield pen.cell(*spot, (PILL, PILL_HIGH), inner if level else end, pen.SAMPLER)
    (x, y), (_, inlet) = lay.closing(0), lay.opening(0)
    yield pen.text((lay.spines[0] + 16, y + 4), "noisy latent, time step, sizes, text", fill=pen.SOFT)
    yield pen.arrow(((lay.spines[0], y - 10), (lay.spines[0], inlet - PILL_HIGH / 2 - 2)))
    yield pen.text((x + PILL + 34, y + 4), "predicted noise", fill=pen.SOFT)
    yield pen.arrow(((x + PILL, y), (x + PILL + 26, y)))


def _skips(plan: LayerPlan, lay: Layout) -> Pieces:
    """The student's skip connections: what the down path stores, the up path takes in reverse."""
    stored: list[Spot] = []
    levels = range(len(plan.teacher.channels))
    for level in levels:
        block, (x, y) = f"down_blocks.{level}", lay.opening(level)
        stored.append((x + PILL, y))
        stored += [(lay.layer_end(block, index), lay.layer(block, index)[1]) for index in plan.resnets[block]]
    for block in (f"up_blocks.{step}" for step in levels):
        for index in plan.resnets[block]:
            (x0, y0), (x1, y1) = stored.pop(), lay.layer(block, index)
            yield pen.skip((x0 + 6, y0), (x1 - 3, y1))


def _flow(plan: LayerPlan, lay: Layout) -> Pieces:
    """The way of the latent down the left spine and up the right one."""
    levels = range(len(plan.teacher.channels))
    left: list[Stop] = []
    right: list[Stop] = []
    for level in levels:
        left += [(lay.opening(level)[1], PILL_HIGH / 2, True), *_stops(plan, lay, f"down_blocks.{level}")]
        closing = (lay.closing(levels[-1] - level)[1], PILL_HIGH / 2, True)
        right += [*_stops(plan, lay, f"up_blocks.{level}"), closing]
    yield from _spine(lay.spines[0], left, 1)
    yield from _spine(lay.spines[1], right, -1)


def _stops(plan: LayerPlan, lay: Layout, block: str) -> list[Stop]:
    layers = range(plan.teacher.resnets(block))
    return [(lay.layer(block, index)[1], CELL_HIGH / 2, index in plan.resnets[block]) for index in layers]


def _spine(x: float, stops: list[Stop], way: int) -> Pieces:
    """Arrows from stop to stop, around those that are gone; way 1 is down, -1 up."""
    y0, half0, gone = stops[0][0], stops[0][1], None
    for y1, half1, stays in stops[1:]:
        if not stays:
            gone = y1
            continue
        yield pen.arrow((*_leaving(x, y0 + way * half0, gone, way), (x, y1 - way * (half1 + 2))))
        y0, half0, gone = y1, half1, None


def _leaving(x: float, y: float, gone: float | None, way: int) -> tuple[Spot, ...]:
    """The beginning of an arrow on a spine: straight on, or around what is gone, the last of it at `gone`."""
    if gone is None:
        return ((x, y),)
    aside, out, back = x - RESIDUAL / 2 - 9, y + 5 * way, gone + (CELL_HIGH / 2 + 5) * way
    return ((x, y), (x, out), (aside, out), (aside, back), (x, back))


def _through_the_middle(plan: LayerPlan, lay: Layout) -> Pieces:
    """The arrow from the last kept layer on the left, through what is kept of the middle, to the right."""
    (down, up), (x, y), half = lay.spines, lay.mid, CELL_HIGH / 2
    lowest = f"down_blocks.{len(plan.teacher.channels) - 1}"
    last, floor = plan.resnets[lowest][-1], plan.teacher.resnets(lowest) - 1
    gone = None if last == floor else lay.layer(lowest, floor)[1]
    start = _leaving(down, lay.layer(lowest, last)[1] + half, gone, 1)
    end = (up, lay.layer("up_blocks.0", plan.resnets["up_blocks.0"][0])[1] + half + 2)
    kept = plan.resnets.get(MID, ())
    if not kept:
        between = lay.mid_top - GAP / 2
        yield pen.arrow((*start, (down, between), (up, between), end))
        return
    yield pen.arrow((*start, (down, y), (x - 2, y)))
    if len(kept) == plan.teacher.mid_resnets:
        yield pen.arrow(((x + lay.mid_wide, y), (up, y), end))
        return
    after, over = x + RESIDUAL, lay.mid_top + HEAD - 5
    yield pen.arrow(((after, y), (after + APART / 2, y), (after + APART / 2, over), (up, over), end))


def _legend(plan: LayerPlan, lay: Layout) -> Pieces:
    x, y, half = lay.spines[1] + 30, lay.mid_top + 22, CELL_HIGH / 2 - 3
    right, size = x + 162, (CELL, 2 * half)
    entries = [
        (x, y, "residual block", pen.cell(x, y, size, "", pen.RESIDUAL)),
        (x, y + 30, "transformer block", pen.cell(x, y + 30, size, "0", pen.TRANSFORMER)),
        (x, y + 60, "convolution", pen.cell(x, y + 60, size, "", pen.SAMPLER)),
        (right, y, "attention site", pen.box(right, y - half, CELL, 2 * half, pen.SHELL)),
        (right, y + 30, "skip connection", pen.skip((right - 2, y + 30), (right + 26, y + 30))),
        (right, y + 60, "removed", pen.cell(right, y + 60, size, "", None)),
    ]
    for at, line, words, sign in entries[: 5 if plan.keeps_everything else 6]:
        yield sign
        yield pen.text((at + 34, line + 4), words)
