"""A comparison as one HTML page: no scripts, nothing loaded from elsewhere, light and dark.

Everything is in the file: pictures as data, drawings as data, the style sheet of this folder. This module
does not know how anything was measured.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from ssd1b.base.units import human_bytes, human_count, human_flops, human_seconds
from ssd1b.evaluate import charts
from ssd1b.evaluate.ablation import Ablation
from ssd1b.evaluate.comparison import Comparison, Drawing, Entry, Picture, Shot, percent, ranged
from ssd1b.evaluate.prompts import KINDS
from ssd1b.plan import count

WORDS = {
    "one_object": ("One object", "the thing asked for, and nothing else"),
    "two_objects": ("Two objects", "both things are there"),
    "position": ("Position", "the thing, on the side asked for"),
    "background": ("Background", "the colour of the ground"),
    "style": ("Style", "the things, in the style asked for"),
    "held_out": ("Held out", "pairs that no training picture showed"),
}
LOSSES = {"task": "task", "output": "output", "feature": "features"}


def html(comparison: Comparison) -> str:
    """Return the whole page."""
    style = (files("ssd1b.evaluate") / "report.css").read_text(encoding="utf-8")
    body = "\n".join(_sections(comparison))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(comparison.title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _sections(comparison: Comparison) -> Iterator[str]:
    yield f'<h1>{escape(comparison.title)}</h1><p class="lead">{escape(comparison.headline())}</p>'
    yield _tiles(comparison)
    yield _pictures(comparison)
    yield from _scores(comparison)
    yield _numbers(comparison)
    yield _seconds(comparison)
    if comparison.ablation is not None:
        yield _ablation(comparison.ablation)
    yield from _curves(comparison)
    yield from _drawings(comparison.drawings)
    yield _facts(comparison)


def _tiles(comparison: Comparison) -> str:
    first, last = comparison.first, comparison.last
    tiles = [
        (percent(last.size.params / first.size.params), f"of the parameters of {first.name}"),
        (percent(last.size.flops / first.size.flops), "of the work per UNet call"),
        (f"{comparison.speedup(last):.2f} ×", f"as fast, {human_seconds(last.speed.seconds)} per picture"),
    ]
    if first.scores is not None and last.scores is not None:
        ours, theirs = ranged(last.scores.overall), ranged(first.scores.overall)
        tiles.append((percent(last.scores.overall.score), f"overall score: {ours} against {theirs}"))
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _pictures(comparison: Comparison) -> str:
    judged = any(picture.passed is not None for shot in comparison.shots for picture in shot.pictures)
    marks = " ✓ and ✗ are the scene reader's verdict on what was asked." if judged else ""
    n = len(comparison.entries)
    many = " many" if n > 2 else ""
    shots = "".join(_shot(comparison, shot) for shot in comparison.shots)
    return (
        "<h2>The same prompt, the same noise</h2>"
        f'<p class="about">Every model starts from the same noise and is told the same.{marks}</p>'
        f'{_names(comparison)}<div class="shots{many}" style="--n:{n}">{shots}</div>'
        "<h2>Nine aspect ratios</h2>"
        f'<p class="about">{_asked_of_all(comparison.aspects)}</p>{_aspects(comparison)}'
    )


def _asked_of_all(shots: Sequence[Shot]) -> str:
    """What the pictures of the nine sizes were asked to show, by the example of the first."""
    example = escape(shots[0].text) if shots else ""
    return f"The nine sizes of SSD-1B, each asked for as in “{example}”." if shots else ""


def _aspects(comparison: Comparison) -> str:
    """One row a model, one column a size, the pictures in proportion to each other."""
    columns = " ".join(f"{shot.px[0]}fr" for shot in comparison.aspects)
    cells = []
    for number, entry in enumerate(comparison.entries):
        cells.append(f'<div class="name">{_who(comparison, entry)}</div>')
        for shot in comparison.aspects:
            picture = shot.pictures[number]
            words = f"{entry.name}: {shot.text}"
            cells.append(f"<div>{_image(picture, words, shot)}{_verdict(picture)}</div>")
    for shot in comparison.aspects:
        width, height = shot.px
        cells.append(f'<div class="size">{escape(shot.label)}<small>{width} × {height}</small></div>')
    grid = f'<div class="aspects" style="grid-template-columns:{columns}">{"".join(cells)}</div>'
    return f'<div class="scroll card">{grid}</div>'


def _names(comparison: Comparison) -> str:
    names = "".join(_who(comparison, entry) for entry in comparison.entries)
    return f'<div class="models">{names}</div>'


def _who(comparison: Comparison, entry: Entry) -> str:
    key = f'<i class="{colour(comparison, entry)}"></i>'
    return f'<span class="who">{key}<span>{escape(entry.name)}</span></span>'


def colour(comparison: Comparison, entry: Entry) -> str:
    """The colour class of a model: grey for the first, blue for the last, others between."""
    number = comparison.entries.index(entry)
    if number in (0, len(comparison.entries) - 1):
        return "m1" if number else "m0"
    return f"m{2 + (number - 1) % 4}"


def _shot(comparison: Comparison, shot: Shot) -> str:
    cells = []
    for entry, picture in zip(comparison.entries, shot.pictures, strict=True):
        under = f'<div class="under">{_who(comparison, entry)}{_verdict(picture)}</div>'
        cells.append(f"<div>{_image(picture, f'{entry.name}: {shot.text}', shot)}{under}</div>")
    label = f"<small>{escape(shot.label)}</small>"
    caption = f"<figcaption>{escape(shot.text)}{label}</figcaption>"
    return f'<figure class="shot"><div class="row">{"".join(cells)}</div>{caption}</figure>'


def _image(picture: Picture, words: str, shot: Shot) -> str:
    width, height = shot.px
    size = f'width="{width}" height="{height}"'
    return f'<img src="{data_uri(picture.data)}" alt="{escape(words)}" {size}>'


def data_uri(data: bytes) -> str:
    """A picture as a `data:` address: PNG, WebP or SVG by its first bytes."""
    kind = "png" if data[:4] == b"\x89PNG" else "webp" if data[:4] == b"RIFF" else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _verdict(picture: Picture) -> str:
    if picture.passed is None:
        return ""
    kind, sign = ("yes", "✓") if picture.passed else ("no", "✗")
    return f'<span class="verdict {kind}" title="{escape(picture.seen)}">{sign}</span>'


def _scores(comparison: Comparison) -> Iterator[str]:
    judged = [entry for entry in comparison.entries if entry.scores is not None]
    if not judged:
        return
    known = ", ".join(
        f"{what} {percent(share, 1)}" for what, share in comparison.reader_accuracy.items() if share <= 1
    )
    yield (
        '<h2>Does it do what it is told?</h2><p class="about">Shares of pictures that show what was asked,'
        " with 95 % intervals, judged by the scene reader. The reader itself, on true scenes it never saw:"
        f" {escape(known)}.</p>"
    )
    panels = [_score_panel(comparison, judged, "overall", "Overall", "the mean of the six scores below")]
    panels += [_score_panel(comparison, judged, kind, *WORDS[kind]) for kind in KINDS]
    yield f'<div class="panels">{"".join(panels)}</div>'


def _score_panel(comparison: Comparison, judged: Sequence[Entry], kind: str, title: str, ask: str) -> str:
    rows = []
    for entry in judged:
        assert entry.scores is not None, "only judged models have score panels"
        score = (
            entry.scores.overall
            if kind == "overall"
            else next(one for name, one in entry.scores.kinds.items() if name == kind)
        )
        drawn = charts.bar(score.score, score.low, score.high, colour(comparison, entry))
        value = f"{percent(score.score)} <small>{100 * score.low:.0f}–{100 * score.high:.0f}</small>"
        rows.append(f'{_who(comparison, entry)}{drawn}<span class="value">{value}</span>')
    wide = " wide" if kind == "overall" else ""
    return (
        f'<div class="panel{wide}"><h3>{escape(title)}</h3><p class="ask">{escape(ask)}</p>'
        f'<div class="rows">{"".join(rows)}</div></div>'
    )


def _numbers(comparison: Comparison) -> str:
    heads = "".join(f"<th>{_who(comparison, entry)}</th>" for entry in comparison.entries)
    rows = "".join(
        f"<tr{' class=main' if strong else ''}><td>{escape(name)}</td>"
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for name, cells, strong in table(comparison)
    )
    return (
        "<h2>Size, work and time</h2>"
        '<p class="about">Seconds are medians of single pictures, the models taking'
        f" turns; work is counted with {count.TOKENS} text tokens.</p>"
        f'<div class="scroll"><table><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def table(comparison: Comparison) -> Iterator[tuple[str, list[str], bool]]:
    """The rows of the table of figures: name, one cell a model (HTML), and whether it matters most."""
    entries, first = comparison.entries, comparison.first
    width, height = first.size.px

    def shares(value: str, share: float, entry: Entry) -> str:
        return value if entry is first else f"{value} <small>{percent(share)}</small>"

    yield (
        "UNet parameters",
        [shares(human_count(e.size.params), e.size.params / first.size.params, e) for e in entries],
        True,
    )
    yield "UNet file", [human_bytes(e.size.unet_bytes) for e in entries], False
    yield "whole folder", [human_bytes(e.size.all_bytes) for e in entries], False
    yield "transformer blocks", [str(e.size.blocks) for e in entries], False
    yield (
        f"one UNet call, {width} × {height}",
        [shares(human_flops(e.size.flops), e.size.flops / first.size.flops, e) for e in entries],
        False,
    )
    yield "seconds per picture", [human_seconds(e.speed.seconds) for e in entries], True
    yield (
        "middle half of rounds",
        ["–".join(f"{one:.3g}" for one in e.speed.quartiles) + " s" for e in entries],
        False,
    )
    yield "speed-up", [f"{comparison.speedup(e):.2f} ×" for e in entries], True
    if first.scores is not None:
        yield (
            "overall score",
            [percent(e.scores.overall.score, 1) if e.scores is not None else "" for e in entries],
            True,
        )


def _seconds(comparison: Comparison) -> str:
    most = max(entry.speed.seconds for entry in comparison.entries)
    rows = []
    for entry in comparison.entries:
        speed = entry.speed
        drawn = charts.stack([("text", speed.text), ("unet", speed.unet), ("vae", speed.vae)], most)
        rows.append(
            f'{_who(comparison, entry)}{drawn}<span class="value">{human_seconds(speed.seconds)}</span>'
        )
    legend = "".join(f'<span><i class="{part}"></i>{part}</span>' for part in ("text", "unet", "vae"))
    return (
        '<div class="panels"><div class="panel wide"><h3>Where the seconds go</h3>'
        f'<div class="legend">{legend.replace(">unet<", ">UNet<").replace(">vae<", ">VAE<")}</div>'
        f'<div class="rows">{"".join(rows)}</div></div></div>'
    )


def _ablation(ablation: Ablation) -> str:
    every = [value for arm in ablation.arms for value in arm.values]
    every += [ablation.teacher] if ablation.teacher is not None else []
    scale, step = charts.round_scale(every)
    rows = []
    for arm in ablation.arms:
        cost = (
            "0 samples"
            if not arm.samples
            else (f"{human_count(arm.samples)} samples, {human_seconds(arm.seconds)}")
        )
        drawn = charts.strip(arm.values, arm.mean, arm.interval, scale, ablation.teacher)
        rows.append(
            f'<span class="name">{escape(arm.name)}<small>{cost}</small></span>{drawn}'
            f'<span class="value">{percent(arm.mean, 1)}</span>'
        )
    teacher = (
        f" The dashed line is the teacher, {percent(ablation.teacher, 1)}."
        if ablation.teacher is not None
        else ""
    )
    command = (
        f'<p class="note">Made with <code>{escape(ablation.command)}</code></p>' if ablation.command else ""
    )
    note = f"<p>{escape(ablation.note)}</p>" if ablation.note else ""
    return (
        "<h2>What the teacher is worth</h2>"
        '<p class="about">Overall score of the student, trained in different ways. Each dot is one seed, the'
        f" upright line their mean, the band its 95 % interval (Student's t).{teacher}</p>{note}"
        f'<div class="panel"><div class="arms">{"".join(rows)}<span class="name"></span>'
        f"{charts.ticks(scale, step)}<span></span></div></div>{command}"
    )


def _curves(comparison: Comparison) -> Iterator[str]:
    trained = [entry for entry in comparison.entries if entry.curves is not None]
    if not trained:
        return
    yield (
        '<h2>How they were trained</h2><p class="about">Losses by step, each unweighted, on a logarithmic'
        " scale. <em>Task</em> is the distance to the true noise, <em>output</em> to the teacher's estimate,"
        " <em>features</em> between the tapped layers.</p>"
    )
    panels = "".join(
        f'<div class="panel"><h3>{_who(comparison, entry)}</h3>{charts.curves(entry.curves, LOSSES)}</div>'
        for entry in trained
        if entry.curves is not None
    )
    yield f'<div class="panels two">{panels}</div>'


def _drawings(drawings: Sequence[Drawing]) -> Iterator[str]:
    if drawings:
        yield "<h2>What was kept</h2>"
    for drawing in drawings:
        models = ", ".join(drawing.models)
        picture = data_uri(drawing.svg.encode())
        yield (
            f'<p class="about">{escape(drawing.about)}: the plan <b>{escape(drawing.plan)}</b>, of'
            f" {escape(models)}.</p>"
            f'<div class="drawing"><div><img src="{picture}" alt="Layers kept by {escape(drawing.plan)}">'
            "</div></div>"
        )


def _facts(comparison: Comparison) -> str:
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in comparison.facts.items()
    )
    sources = "".join(
        f"<dt>{escape(entry.name)}</dt><dd><code>{escape(entry.source)}</code></dd>"
        for entry in comparison.entries
    )
    return f"<h2>How this was measured</h2><dl>{items}{sources}</dl><footer>Made by ssd1b compare.</footer>"
