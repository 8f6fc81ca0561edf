"""The pictures of a report: some prompts and all nine sizes, drawn by every model from the same noise.

For miniatures they are answers that were judged anyway; models for photographs draw a few prompts of their
own, which nobody judges. This module does not know scores or pages.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ssd1b.base.seeds import seed_of
from ssd1b.base.units import aspects_of
from ssd1b.evaluate.comparison import Picture, Shot
from ssd1b.evaluate.judging import request_for
from ssd1b.evaluate.scores import passes
from ssd1b.generate import pipeline

if TYPE_CHECKING:
    from PIL import Image

    from ssd1b.evaluate.judging import Answer, Settings
    from ssd1b.generate.model import Model

PHOTOS = (
    "a lighthouse on a cliff at dusk, long exposure",
    "portrait of an old fisherman, natural light, 85mm",
    "a red bicycle leaning against a yellow wall",
    "macro photograph of a dragonfly on a reed",
    "a bowl of ramen, steam rising, from above",
    "an astronaut reading in a library, oil painting",
    "a snowy village at night, windows glowing",
    "two parrots on a branch, watercolour",
)
PANORAMA = "a mountain lake in the morning, photograph"
_WEBP_QUALITY = 90


def judged(by_model: Sequence[Sequence[Answer]], labels: Sequence[str]) -> tuple[Shot, ...]:
    """Put the answers of all models to the same prompts side by side."""
    shots = []
    for answers, label in zip(zip(*by_model, strict=True), labels, strict=True):
        prompt = answers[0].prompt
        assert all(answer.prompt == prompt for answer in answers), "models were asked different things"
        shots.append(Shot(prompt.text, label, prompt.size_px, tuple(map(_judged_picture, answers))))
    return tuple(shots)


def photographs(
    models: Sequence[Model],
    settings: Settings,
    few: bool,
    on_done: Callable[[int], None] = lambda _: None,
) -> tuple[tuple[Shot, ...], tuple[Shot, ...]]:
    """Draw the prompts for photographs and one prompt in the nine sizes; `few` draws half of the prompts."""
    presets = aspects_of(models[0].shape.sample_size)
    asked = [(text, "", presets["1:1"]) for text in PHOTOS[: len(PHOTOS) // (2 if few else 1)]]
    sizes = [(PANORAMA, name, px) for name, px in presets.items()]

    def shot(text: str, label: str, px: tuple[int, int]) -> Shot:
        pictures = []
        for model in models:
            request = request_for(model, text, px, seed_of(settings.seed, "photograph", text), settings)
            pictures.append(Picture(_webp(pipeline.sample(model, [request])[0])))
            on_done(1)
        return Shot(text, label, px, tuple(pictures))

    return tuple(shot(*one) for one in asked), tuple(shot(*one) for one in sizes)


def photographs_wanted(few: bool) -> int:
    """How many pictures `photographs` draws with each model."""
    return len(PHOTOS) // (2 if few else 1) + 9


def _judged_picture(answer: Answer) -> Picture:
    reading = answer.reading
    things = ", ".join(f"{seen.noun} ({seen.style})" for seen in reading.things) or "nothing"
    seen = f"the reader saw: {things}, on {reading.background}"
    return Picture(answer.picture.read_bytes(), passes(answer.prompt, reading), seen)


def _webp(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_WEBP_QUALITY)
    return data.getvalue()
