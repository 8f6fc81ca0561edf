"""What leaving work out at equal steps saves in seconds, and what it does to the picture.

The settings take turns picture by picture, on the same prompt and noise, so that whatever else the machine
does hits all of them alike and every picture has its whole counterpart. Does not know how a picture is
scored, nor files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import numpy as np

from ssd1b.generate import pipeline
from ssd1b.generate.engines.torch import TorchDenoiser
from ssd1b.generate.model import KnownText
from ssd1b.generate.openvino.calibrate import psnr_db

if TYPE_CHECKING:
    from PIL import Image

    from ssd1b.generate.model import Model
    from ssd1b.generate.request import Request

WHOLE = "nothing left out"
BATCH = 4
"""Pictures of one prompt that are made by each of the ways of `WAYS`."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way of leaving work out; `tiny` puts the tiny decoder in the place of the VAE."""

    name: str
    guidance_until: float = 1.0
    reuse: int = 1
    tiny: bool = False

    @property
    def slug(self) -> str:
        """Its name in ratios."""
        return self.name.replace(" ", "-").replace(",", "")


SETTINGS = (
    Setting(WHOLE),
    Setting("guidance until 0.8", guidance_until=0.8),
    Setting("guidance until 0.6", guidance_until=0.6),
    Setting("guidance until 0.4", guidance_until=0.4),
    Setting("reuse 2", reuse=2),
    Setting("reuse 3", reuse=3),
    Setting("guidance until 0.6, reuse 2", guidance_until=0.6, reuse=2),
    Setting("tiny decoder", tiny=True),
    Setting("guidance until 0.6, reuse 2, tiny decoder", guidance_until=0.6, reuse=2, tiny=True),
)


@dataclass(slots=True)
class Laps:
    """Seconds per picture of each counted round, and how far each picture is from the whole one, in dB."""

    seconds: list[float] = field(default_factory=list)
    psnr_db: list[float] = field(default_factory=list)

    def told(self) -> dict[str, object]:
        """Median, quartiles and every round, for programs."""
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        said: dict[str, object] = {
            "median_s": round(median(self.seconds), 4),
            "quartiles_s": [round(low, 4), round(high, 4)],
            "seconds": [round(value, 4) for value in self.seconds],
        }
        if self.psnr_db:
            said["psnr_db"] = round(median(self.psnr_db), 2)
        return said


def measure(
    model: Model,
    tiny: Model,
    requests: Sequence[Request],
    settings: Sequence[Setting] = SETTINGS,
    on_done: Callable[[int], None] = lambda _: None,
) -> dict[str, Laps]:
    """Time whole pictures, text included, setting after setting.

    Args:
        model: as it is.
        tiny: the same with the tiny decoder.
        requests: one a round, alike in size and steps; the first warms up and is not counted.
        settings: the first is what the others are compared with.
        on_done: hears of each picture.
    """
    laps = {setting.name: Laps() for setting in settings}
    for number, request in enumerate(requests):
        made = {}
        for setting in _turned(settings, number):
            used = tiny if setting.tiny else model
            asked = request.model_copy(
                update={
                    "guidance_until": setting.guidance_until,
                    "reuse": setting.reuse,
                    "decoder": used.decoder,
                }
            )
            seconds, made[setting.name] = _timed(_forgetful(used), [asked])
            if number:
                laps[setting.name].seconds.append(seconds)
            on_done(1)
        whole = made.pop(settings[0].name)
        for name, images in made.items() if number else ():
            laps[name].psnr_db.append(psnr_db(np.asarray(images[0]), np.asarray(whole[0])))
    return laps


def _timed(model: Model, requests: Sequence[Request]) -> tuple[float, list[Image.Image]]:
    began = time.perf_counter()
    images = pipeline.sample(model, requests)
    return time.perf_counter() - began, images


def _turned(settings: Sequence[Setting], number: int) -> list[Setting]:
    """Another one first in each round."""
    first = number % len(settings)
    return [*settings[first:], *settings[:first]]


def _forgetful(model: Model) -> Model:
    """The model without what it encoded before."""
    return replace(model, known_text=KnownText())


def _each_anew(model: Model, requests: Sequence[Request]) -> None:
    for request in requests:
        pipeline.sample(_forgetful(model), [request])


def _text_once(model: Model, requests: Sequence[Request]) -> None:
    for request in requests:
        pipeline.sample(model, [request])


def _rows_apart(model: Model, requests: Sequence[Request]) -> None:
    assert isinstance(model.denoiser, TorchDenoiser), "OpenVINO's rows are cut by size alone"
    pipeline.sample(replace(model, denoiser=replace(model.denoiser, at_once=1)), requests)


def _rows_together(model: Model, requests: Sequence[Request]) -> None:
    assert isinstance(model.denoiser, TorchDenoiser), "OpenVINO's rows are cut by size alone"
    pipeline.sample(replace(model, denoiser=replace(model.denoiser, at_once=2 * len(requests))), requests)


WAYS: Mapping[str, Callable[[Model, Sequence[Request]], None]] = {
    "one by one, text encoded each time": _each_anew,
    "one by one, text encoded once": _text_once,
    "in one batch, row by row": _rows_apart,
    "in one batch, rows together": _rows_together,
}
"""How a batch of pictures of one prompt can be made; the pictures are the same."""


def measure_batches(
    model: Model, batches: Sequence[Sequence[Request]], on_done: Callable[[int], None] = lambda _: None
) -> dict[str, Laps]:
    """Time the ways of `WAYS`, seconds per picture; one batch a round, the first is not counted."""
    laps = {name: Laps() for name in WAYS}
    for number, requests in enumerate(batches):
        for name, way in WAYS.items():
            began = time.perf_counter()
            way(_forgetful(model), requests)
            if number:
                laps[name].seconds.append((time.perf_counter() - began) / len(requests))
            on_done(len(requests))
    return laps


def ratios(model: str, found: Mapping[str, Mapping[str, Laps]], ways: Mapping[str, Laps]) -> dict[str, float]:
    """How many times as fast as with nothing left out: "mini-ssd/torch/reuse-2"; medians of one run."""
    told = {}
    for engine, laps in found.items():
        whole = median(laps[WHOLE].seconds)
        for name, each in laps.items():
            if name != WHOLE:
                told[f"{model}/{engine}/{Setting(name).slug}"] = whole / median(each.seconds)
    for slug, (slow, fast) in {"text-once": list(WAYS)[:2], "rows-together": list(WAYS)[2:]}.items():
        told[f"{model}/torch/{slug}"] = median(ways[slow].seconds) / median(ways[fast].seconds)
    return {name: round(ratio, 3) for name, ratio in told.items()}


def rows_of(record: Mapping[str, Any], engine: str = "torch") -> list[tuple[str, ...]]:
    """The rows of the table for people: setting, seconds, ratio, score, PSNR.

    Args:
        record: what `scripts/savings.py` writes.
        engine: whose pictures.
    """
    found, scores = record["pictures"][engine], record["scores"].get(engine, {})
    rows: list[tuple[str, ...]] = []
    for name, laps in found.items():
        ratio = record["ratios"].get(f"{record['model']}/{engine}/{Setting(name).slug}", 1.0)
        score = scores.get(name)
        said = f"{100 * score['overall']:.1f} % of {score['prompts']}" if score else "not scored"
        psnr = f"{laps['psnr_db']:.1f} dB" if "psnr_db" in laps else "–"
        rows.append((name, f"{laps['median_s']:.3f} s", f"{ratio:.2f}×", said, psnr))
    return rows


def markdown(record: Mapping[str, Any]) -> str:
    """The tables of docs/engines.md, a blank line between them."""
    head = "| {} | seconds a picture | times as fast | score | PSNR |\n|---|---|---|---|---|\n"
    tables = [
        head.format(engine) + "".join(f"| {' | '.join(row)} |\n" for row in rows_of(record, engine))
        for engine in record["pictures"]
    ]
    batch = "| torch, a batch of one prompt | seconds a picture |\n|---|---|\n"
    batch += "".join(f"| {name} | {laps['median_s']:.3f} s |\n" for name, laps in record["batch"].items())
    return "\n".join([*tables, batch])
