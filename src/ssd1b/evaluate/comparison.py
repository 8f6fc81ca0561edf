"""What a comparison of models is: plain facts, ready to be written as a page, as Markdown or as JSON.

The first model is the one all others are measured against, usually the teacher. This module knows no torch,
no files and no layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssd1b.evaluate.ablation import Ablation
    from ssd1b.evaluate.losses import Curves
    from ssd1b.evaluate.scores import Score, Scores


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds per picture: the median of `rounds`, its quartiles, and the medians of the parts."""

    seconds: float
    quartiles: tuple[float, float]
    text: float
    unet: float
    vae: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Size:
    """What a model weighs.

    Attributes:
        params: of the UNet.
        unet_bytes: its weight files on disk.
        all_bytes: every file of the model's folder.
        blocks: transformer blocks of the UNet.
        flops: floating point operations of one UNet call, for one picture of `px`.
        px: (width, height).
    """

    params: int
    unet_bytes: int
    all_bytes: int
    blocks: int
    flops: int
    px: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of a comparison. `scores` is None where no reader can judge its pictures."""

    name: str
    source: str
    size: Size
    speed: Speed
    scores: Scores | None = None
    curves: Curves | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture, and whether it shows what was asked (None: nobody judged)."""

    data: bytes
    passed: bool | None = None
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Shot:
    """One prompt, one starting noise, one picture per model in their order."""

    text: str
    label: str
    px: tuple[int, int]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """The drawing of a layer plan, and the models that were cut by it."""

    plan: str
    about: str
    svg: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything a report shows. `facts` says how it was measured, name by name."""

    title: str
    entries: tuple[Entry, ...]
    shots: tuple[Shot, ...]
    aspects: tuple[Shot, ...]
    drawings: tuple[Drawing, ...] = ()
    ablation: Ablation | None = None
    reader_accuracy: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def first(self) -> Entry:
        """The model the others are measured against."""
        return self.entries[0]

    @property
    def last(self) -> Entry:
        """The model the report is about: the last one named."""
        return self.entries[-1]

    def speedup(self, entry: Entry) -> float:
        """How many times as fast as the first model, by seconds per picture."""
        return self.first.speed.seconds / entry.speed.seconds

    def kept_score(self, entry: Entry) -> float | None:
        """The overall score as a share of the first model's; None where there is none to compare with."""
        if entry.scores is None or self.first.scores is None or not self.first.scores.overall.score:
            return None
        return entry.scores.overall.score / self.first.scores.overall.score

    def headline(self) -> str:
        """The whole comparison in one sentence, about the last model against the first."""
        first, last = self.first, self.last
        params = f"{percent(last.size.params / first.size.params)} of the UNet parameters of {first.name}"
        times = self.speedup(last)
        pace = f"makes a picture {times:.2f} times as fast"
        if last.scores is None or first.scores is None:
            return f"{last.name} has {params} and {pace}."
        ours, theirs = last.scores.overall, first.scores.overall
        apart = ours.high < theirs.low or theirs.high < ours.low
        doubt = "" if apart else "; so few pictures do not tell the two scores apart"
        return f"{last.name} has {params}, {pace} and scores {ranged(ours)} against {ranged(theirs)}{doubt}."


def ranged(score: Score) -> str:
    """A score with its 95 % interval: '24 % (20–32)'."""
    return f"{percent(score.score)} ({100 * score.low:.0f}–{100 * score.high:.0f})"


def percent(share: float, digits: int = 0) -> str:
    """A share of 1 as people read it: '52 %', '98.2 %'; the blank does not break."""
    return f"{100 * share:.{digits}f}\u00a0%"


def record(comparison: Comparison) -> dict[str, object]:
    """The comparison as JSON, without its pictures and drawings."""
    return {
        "title": comparison.title,
        "headline": comparison.headline(),
        "models": [_model_record(comparison, entry) for entry in comparison.entries],
        "speedup": {entry.name: round(comparison.speedup(entry), 3) for entry in comparison.entries[1:]},
        "reader_accuracy": dict(comparison.reader_accuracy),
        "measured": dict(comparison.facts),
    }


def _model_record(comparison: Comparison, entry: Entry) -> dict[str, object]:
    size, speed, kept = entry.size, entry.speed, comparison.kept_score(entry)
    made: dict[str, object] = {
        "name": entry.name,
        "source": entry.source,
        "params": size.params,
        "bytes": size.unet_bytes,
        "folder_bytes": size.all_bytes,
        "transformer_blocks": size.blocks,
        "flops": size.flops,
        "size_px": list(size.px),
        "seconds_per_picture": round(speed.seconds, 4),
        "seconds_quartiles": [round(one, 4) for one in speed.quartiles],
        "seconds_text": round(speed.text, 4),
        "seconds_unet": round(speed.unet, 4),
        "seconds_vae": round(speed.vae, 4),
        "speedup": round(comparison.speedup(entry), 3),
    }
    if entry.scores is not None:
        kinds = entry.scores.kinds.items()
        overall = entry.scores.overall
        made |= {
            "overall": round(overall.score, 4),
            "overall_kept": None if kept is None else round(kept, 4),
            "scores": {kind: round(score.score, 4) for kind, score in kinds},
            "intervals": {kind: [round(score.low, 4), round(score.high, 4)] for kind, score in kinds}
            | {"overall": [round(overall.low, 4), round(overall.high, 4)]},
        }
    return made
