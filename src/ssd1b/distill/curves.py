"""The loss curves of a run, drawn from its log.

Knows which lines of log.jsonl belong together. Does not know how a chart is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ssd1b.base.errors import MissingFileError
from ssd1b.base.files import write_atomic
from ssd1b.distill import chart, journal
from ssd1b.distill.chart import Line, Panel, Span

_COLOURS = {"loss": "#475569", "task": "#2563eb", "output": "#d97706", "feature": "#0d9488"}
_SHARES = frozenset({"masked"})  # logged among the losses, but in 0..1: a panel of their own
_SHALLOW, _DEEP = (0x7C, 0x3A, 0xED), (0xF5, 0x9E, 0x0B)


def draw(folder: Path) -> Path:
    """Write losses.svg into a run's folder, from what is logged so far.

    Raises:
        MissingFileError: the folder has no log.
    """
    log = folder / "log.jsonl"
    if not log.is_file():
        raise MissingFileError(f"{folder} has no log.jsonl; is it the folder of a run?")
    path = folder / "losses.svg"
    write_atomic(path, svg(folder.name, journal.read(log)))
    return path


def svg(name: str, log: Sequence[Mapping[str, object]]) -> str:
    """The curves of a log: the sum and its parts, the single feature terms, shares, the learning rate."""
    moments = [line for line in log if "losses" in line]
    terms_seen = {key for line in moments for key in _losses(line) if key.startswith("feature/")}
    sites = sorted(terms_seen, key=_order)
    stages = [[line for line in moments if line["stage"] == span.label] for span in _spans(moments)]
    single = {name for line in moments for name in _losses(line) if "/" not in name}
    parts = _named(stages, [*_COLOURS, *sorted(single - _COLOURS.keys() - _SHARES)])
    shares = _named(stages, sorted(_SHARES))
    terms = [term for stage in stages for term in _terms(stage, sites, named=stage is stages[-1])]
    rates = [(_float(line["total"]), _float(line["learning_rate"])) for line in moments]
    panels = [
        Panel("Losses: their weighted sum (loss), and each part unweighted", parts, 280),
        Panel("Feature terms, from the first tap pair (violet) to the last (amber)", terms, 240),
        Panel("Share of the teacher's feature values that is left out", shares, 120, log=False),
        Panel("Learning rate", [Line("", "#6b7280", rates, smooth=False)], 70, log=False),
    ]
    return chart.svg(f"Loss curves of {name}", _subtitle(moments), panels, _spans(moments))


def _named(stages: Sequence[Sequence[Mapping[str, object]]], names: Sequence[str]) -> list[Line]:
    """A line for each name in each stage; those of the last stage say who they are."""
    return [
        Line(name if stage is stages[-1] else "", _COLOURS.get(name, "#6b7280"), _loss(stage, name))
        for stage in stages
        for name in names
    ]


def _terms(stage: Sequence[Mapping[str, object]], sites: Sequence[str], *, named: bool) -> list[Line]:
    """One line per tap pair, coloured by depth; if `named`, the first, middle and last say who they are."""
    middle = [site for site in sites if "mid_block" in site][:1]
    speaking = {sites[0], *middle, sites[-1]} if named and sites else set()
    last = max(len(sites) - 1, 1)
    return [
        Line(
            _short(site) if site in speaking else "",
            _between(number / last),
            chart.smoothed(_loss(stage, site)),
            smooth=False,
        )
        for number, site in enumerate(sites)
    ]


def _short(site: str) -> str:
    """A tap's name as the log has it, but for those deep within an attention site, which find no room."""
    name = site.removeprefix("feature/")
    if "transformer_blocks." not in name:
        return name
    return name.replace("_blocks.", " ").replace("attentions.", "at ").replace("transformer ", "block ")


def _spans(moments: Sequence[Mapping[str, object]]) -> list[Span]:
    """The stages, each from the end of the one before to its last logged step."""
    ends: dict[str, float] = {str(line["stage"]): _float(line["total"]) for line in moments}
    starts = [0.0, *ends.values()]
    return [Span(stage, start, end) for (stage, end), start in zip(ends.items(), starts, strict=False)]


def _subtitle(moments: Sequence[Mapping[str, object]]) -> str:
    if not moments:
        return ""
    last = moments[-1]
    rates = sorted(_float(line["samples_per_s"]) for line in moments)
    return f"{last['total']} steps, {rates[len(rates) // 2]:.1f} samples/s (median); bold: running average"


def _loss(moments: Sequence[Mapping[str, object]], part: str) -> list[chart.Point]:
    return [(_float(line["total"]), _losses(line)[part]) for line in moments if part in _losses(line)]


def _losses(line: Mapping[str, object]) -> dict[str, float]:
    losses = line["losses"]
    return losses if isinstance(losses, dict) else {}


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _order(site: str) -> tuple[int, str]:
    """Running order: down, middle, up; within a block a residual block comes before its attention."""
    place = next((i for i, part in enumerate(("down", "mid", "up")) if f"/{part}" in site), 3)
    block, _, rest = site.partition(".resnets.") if ".resnets." in site else site.partition(".attentions.")
    return place, f"{block} {rest} {'b' if '.attentions.' in site else 'a'}"


def _between(share: float) -> str:
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(_SHALLOW, _DEEP, strict=True))
