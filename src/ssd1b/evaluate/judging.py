"""Makes a model's pictures for the fixed prompts, has them read, and keeps both: nothing is made twice.

    <cache>/evaluate/<key>/  readings.json   what the reader saw in each picture, and seconds per picture
                             pictures/       one WebP per prompt

The key hashes everything that decides a picture or its reading: weights, prompts, settings, reader. It is
written after every batch, so an interrupted evaluation goes on where it stopped. This module does not know
what a reading is worth.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ssd1b.base.errors import MissingFileError, RequestError
from ssd1b.base.files import cache_folder, sha256_file, write_atomic
from ssd1b.base.units import VAE_SCALE
from ssd1b.evaluate.prompts import Prompt, prompts
from ssd1b.generate import pipeline
from ssd1b.generate.model import MINIATURE_BELOW
from ssd1b.generate.request import Request, request_of
from ssd1b.mini import reader
from ssd1b.mini.reader import Reading, Seen

if TYPE_CHECKING:
    from PIL import Image

    from ssd1b.generate.model import Model

BATCH = 24
_WEIGHED = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_WEIGHED_IN_EXPORTS = ("vae_decoder",)
_WEBP_QUALITY = 92


class Judge(Protocol):
    """Who reads pictures: the scene reader, or a fake beside it in tests."""

    @property
    def accuracy(self) -> Mapping[str, float]:
        """Its own measured accuracy on true scenes."""
        ...

    def read(self, pictures: Sequence[np.ndarray]) -> list[Reading]:
        """Read pictures of one size, uint8 HxWx3 each."""
        ...


@dataclass(frozen=True, slots=True)
class Examiner:
    """A judge and its mark: other weights, another mark."""

    judge: Judge
    mark: str


def scene_reader() -> Examiner:
    """The reader shipped in the package.

    Raises:
        MissingFileError: the package was built without it.
    """
    with as_file(files("ssd1b.mini") / "weights" / "reader" / "reader.safetensors") as weights:
        if not weights.is_file():
            raise MissingFileError(
                "This installation was built without the scene reader that judges pictures"
                f" ({weights}). Install the package anew, or train one with `ssd1b mini train reader`."
            )
        return Examiner(reader.load(), sha256_file(weights))


@dataclass(frozen=True, slots=True)
class Settings:
    """How the pictures are made; the same for every model that is compared."""

    steps: int
    guidance: float
    scheduler: str
    seed: int = 0
    guidance_until: float = 1.0
    reuse: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt, what its picture shows, where the picture lies, and the seconds it took to make."""

    prompt: Prompt
    reading: Reading
    picture: Path
    seconds: float


@dataclass(slots=True)
class Kept:
    """The answers of one model under one key, on disk."""

    folder: Path
    answers: dict[str, Answer] = field(default_factory=dict)
    records: dict[str, dict[str, object]] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path, known: Iterable[Prompt]) -> Kept:
        """Read what is there; a record without its picture counts as not there."""
        kept, path = cls(folder), folder / "readings.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        kept.records.update(found)
        for prompt in known:
            record, picture = found.get(prompt.id), kept.picture_of(prompt)
            if record is not None and record["prompt"] == prompt.text and picture.is_file():
                things = tuple(Seen(**thing) for thing in record["things"])
                reading = Reading(things, record["background"])
                kept.answers[prompt.id] = Answer(prompt, reading, picture, record["seconds"])
        return kept

    def picture_of(self, prompt: Prompt) -> Path:
        """Where a prompt's picture lies."""
        return self.folder / "pictures" / f"{prompt.id}.webp"

    def add(self, made: Sequence[tuple[Prompt, Image.Image, Reading]], seconds: float) -> None:
        """Take in a batch that took `seconds` and write everything down."""
        for prompt, image, reading in made:
            place = self.picture_of(prompt)
            write_atomic(place, _webp(image))
            self.answers[prompt.id] = Answer(prompt, reading, place, seconds / len(made))
            self.records[prompt.id] = {
                "prompt": prompt.text,
                "things": [asdict(seen) for seen in reading.things],
                "background": reading.background,
                "seconds": round(seconds / len(made), 5),
            }
        write_atomic(self.folder / "readings.json", json.dumps(self.records))


def settings_of(model: Model, steps: int | None, guidance: float | None, seed: int = 0) -> Settings:
    """The settings asked for, and the model's own where nothing is asked."""
    own = model.defaults
    return Settings(
        steps=own.steps if steps is None else steps,
        guidance=own.guidance if guidance is None else guidance,
        scheduler=own.scheduler,
        seed=seed,
    )


def judge_model(
    model: Model,
    examiner: Examiner,
    asked: Sequence[Prompt],
    settings: Settings,
    on_done: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """Return one answer per prompt, making only the pictures that are not there yet.

    Args:
        model: a miniature.
        examiner: who reads the pictures.
        asked: prompts made with `settings.seed`.
        settings: how pictures are made.
        on_done: hears of every n more pictures that are there.

    Raises:
        RequestError: the model is not a miniature, or steps, guidance or seed are out of range.
    """
    refuse_full_size(model.shape.sample_size, model.shape.cross_attention_dim, model.name)
    kept = Kept.at(cache_folder() / "evaluate" / key_of(model, examiner, settings), asked)
    missing = [prompt for prompt in asked if prompt.id not in kept.answers]
    on_done(len(asked) - len(missing))
    for batch in batches(missing):
        began = time.perf_counter()
        requests = [request_of_prompt(model, prompt, settings) for prompt in batch]
        images = pipeline.sample(model, requests, _shares_of(len(batch), on_done))
        seconds = time.perf_counter() - began
        readings = examiner.judge.read([np.asarray(image) for image in images])
        kept.add(list(zip(batch, images, readings, strict=True)), seconds)
    return [kept.answers[prompt.id] for prompt in asked]


def refuse_full_size(sample_size: int, cross_attention_dim: int, name: str) -> None:
    """Raise RequestError for a model that does not draw the mini world."""
    if sample_size >= MINIATURE_BELOW or cross_attention_dim >= 1024:
        raise RequestError(
            f"'{name}' cannot be evaluated: the scene reader only judges models of the mini world, and this"
            f" one draws photographs (native side {VAE_SCALE * sample_size} px, text width"
            f" {cross_attention_dim}). Give mini-sdxl, mini-ssd or a folder of a model carved or distilled"
            " from them; `ssd1b compare` still measures full-size models and shows their pictures."
        )


def batches(asked: Sequence[Prompt], most: int = BATCH) -> Iterator[list[Prompt]]:
    """Cut prompts into batches of one picture size, the commonest size first."""
    by_size: dict[tuple[int, int], list[Prompt]] = {}
    for prompt in asked:
        by_size.setdefault(prompt.size_px, []).append(prompt)
    for group in sorted(by_size.values(), key=len, reverse=True):
        for start in range(0, len(group), most):
            yield group[start : start + most]


def key_of(model: Model, examiner: Examiner, settings: Settings) -> str:
    """Name everything that decides the answers, in 24 hex digits."""
    assert model.folder is not None, "a loaded model comes from a folder"
    places = [model.folder / part for part in (*_WEIGHED, *_WEIGHED_IN_EXPORTS)]
    parts = [path for place in places if place.is_dir() for path in sorted(place.iterdir()) if path.is_file()]
    if model.decoder_folder is not None:
        parts += sorted((*model.decoder_folder.glob("*.safetensors"), model.decoder_folder / "config.json"))
    weights = [f"{path.parent.name}/{path.name} {sha256_file(path)}" for path in parts]
    asked = [asdict(prompt) for prompt in prompts(seed=settings.seed)]
    numbers = str(model.placement.dtype) if model.engine == "torch" else model.placement.reason
    text = json.dumps(
        [weights, numbers, model.decoder, asked, asdict(settings), examiner.mark], sort_keys=True
    )
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def request_of_prompt(model: Model, prompt: Prompt, settings: Settings) -> Request:
    """The request that draws a prompt's picture; everything but the model is the same for all models."""
    return request_for(model, prompt.text, prompt.size_px, prompt.seed, settings)


def request_for(model: Model, text: str, size_px: tuple[int, int], seed: int, settings: Settings) -> Request:
    """A request for a picture of (width, height) pixels from the noise of `seed`."""
    width, height = size_px
    return request_of(
        {
            "prompt": text,
            "width": width,
            "height": height,
            "steps": settings.steps,
            "guidance": settings.guidance,
            "scheduler": settings.scheduler,
            "seed": seed,
            "model": model.name,
            "decoder": model.decoder,
            "guidance_until": settings.guidance_until,
            "reuse": settings.reuse,
        }
    )


def _shares_of(pictures: int, on_done: Callable[[int], None]) -> pipeline.OnStep:
    """Report a batch's pictures little by little, as its steps are done."""
    told = 0

    def on_step(step: pipeline.Step) -> None:
        nonlocal told
        due = pictures * step.number // step.total
        on_done(due - told)
        told = due

    return on_step


def _webp(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_WEBP_QUALITY)
    return data.getvalue()
