"""What `ssd1b generate` does once the options are read: complete the requests, draw, save, tell.

Does not know how a picture is made, nor the options' names on the command line.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ssd1b.base.errors import RequestError
from ssd1b.base.units import human_seconds
from ssd1b.cli import show

if TYPE_CHECKING:
    from PIL.Image import Image

    from ssd1b.generate.adapters import Adapter
    from ssd1b.generate.asked import Asked
    from ssd1b.generate.axes import Axis
    from ssd1b.generate.canvas import Canvas
    from ssd1b.generate.model import Model
    from ssd1b.generate.places import Places
    from ssd1b.generate.request import Request


@dataclass(frozen=True, slots=True)
class Like:
    """A picture that is to be repeated: its request, and the engine that made it."""

    request: Request
    engine: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run in a person's words: wishes (one a prompt), pictures of each, what to vary, what to repeat."""

    asked: Sequence[Asked]
    count: int = 1
    axes: Sequence[Axis] = ()
    like: Like | None = None

    def canvases(self) -> Mapping[str, Image]:
        """What is painted over, by its hash."""
        canvas = self.asked[0].canvas
        return {} if canvas is None else canvas.by_digest()


def texts_of(prompt: str | None, file: Path | None, like: Like | None) -> list[str]:
    """The prompts of a run: the one given, a file's lines, or that of the picture to repeat.

    Raises:
        RequestError: none was given, or two.
        MissingFileError: there is no such file.
    """
    from ssd1b.generate.wildcards import read_lines

    if file is None:
        if prompt is None and like is None:
            raise RequestError('Say what is to be seen: ssd1b generate "a fox", or give --prompts or --like.')
        return [like.request.prompt if prompt is None and like is not None else prompt or ""]
    if prompt is not None or like is not None:
        raise RequestError("--prompts brings the prompts; leave the other prompt, or --like, out.")
    lines = read_lines(file)
    if not lines:
        raise RequestError(f"{file} has no prompt in it. Write one a line.")
    return lines


def canvas_of(image: Path | None, mask: Path | None) -> Canvas | None:
    """What is painted over, read and checked.

    Raises:
        RequestError, MissingFileError, DamagedFileError: as `canvas.read_canvas`, or a mask of nothing.
    """
    from ssd1b.generate.canvas import read_canvas

    if image is None:
        if mask is not None:
            raise RequestError("--mask says where to paint over a picture; give the picture with --image.")
        return None
    return read_canvas(image, mask)


def adapters_of(lora: Sequence[str], like: Like | None) -> list[Adapter]:
    """The LoRA files that are to be worn, read and checked; weights left out are those of `like`.

    Raises:
        RequestError, MissingFileError, DamagedFileError, LayoutError: as `adapters.read_adapter`.
    """
    if not lora:
        return []
    from ssd1b.generate.adapters import read_adapter

    return [read_adapter(text, like.request.adapters if like else ()) for text in lora]


def like_of(path: Path | None) -> Like | None:
    """What a picture that is to be repeated carries."""
    from ssd1b.generate.picture import read_record

    if path is None:
        return None
    request, record = read_record(path)
    if "pictures" in record:
        show.say(f"{path} is a sheet of {record['pictures']} pictures; its first one is repeated.")
    return Like(request, str(record.get("engine", "")))


def refuse_nonsense(wanted: Wanted) -> None:
    """Check what needs no model, before gigabytes are fetched or loaded."""
    from ssd1b.generate import asked

    for each in wanted.asked:
        asked.refuse_nonsense(each)
    if wanted.axes and (wanted.count > 1 or len(wanted.asked) > 1):
        raise RequestError("A grid (--xy) varies one picture; leave --count and --prompts out.")


def requests_of(wanted: Wanted, model: Model) -> list[Request]:
    """Complete the wishes, and say what will be done before it takes its time."""
    from ssd1b.generate.asked import completed, remarks
    from ssd1b.generate.axes import spread

    like = wanted.like
    if like and like.engine not in ("", model.engine):
        show.say(
            f"That picture was made by {like.engine}, this one is made by {model.engine}: nearly the same."
        )
    requests: list[Request] = []
    for asked in wanted.asked:
        requests += completed(asked, model, wanted.count, like.request if like else None)
    first = requests[0]
    if wanted.axes:
        requests = spread(first, wanted.axes)
    for remark in remarks(first, model):
        show.say(remark)
    source = "that picture" if like else model.defaults.source
    show.say(
        f"{first.width}x{first.height}, {first.steps} steps of {first.scheduler}, guidance {first.guidance:g}"
        f", seed {first.seed} (where nothing was said: as {source} has it)."
    )
    show.say(f"On {model.placement.reason}.")
    return requests


@dataclass(slots=True)
class Made:
    """What came of a run; pictures are kept only where a sheet is to be made of them."""

    places: Places
    requests: Sequence[Request]
    images: list[Image] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    sheet: Path | None = None

    def record(self) -> dict[str, object]:
        """The JSON of `--json`; `request` is the first picture's, `seconds` are without loading."""
        return {
            "files": [str(path) for path in self.files],
            "grid": str(self.sheet) if self.sheet else None,
            "seed": self.requests[0].seed,
            "seconds": round(self.seconds, 3),
            "request": self.requests[0].model_dump(),
        }


def draw(
    model: Model, requests: Sequence[Request], canvases: Mapping[str, Image], batch: int, places: Places
) -> Made:
    """Make and save batch by batch, so that what is finished is there when a run is interrupted."""
    from ssd1b.generate.pipeline import batches, sample

    made = Made(places, requests)
    parts = list(batches(requests, batch, model))
    start = time.monotonic()
    with show.counting("drawing", sum(part[0].n_steps for part in parts), "steps") as advance:
        for part in parts:
            images = sample(model, part, lambda _: advance(1), canvases)
            made.images += [] if places.single else images
            made.files += [places.save(*pair) for pair in zip(images, part, strict=True)]
    made.seconds = time.monotonic() - start
    pictures = "1 picture" if len(requests) == 1 else f"{len(requests)} pictures"
    show.say(f"{pictures} in {human_seconds(made.seconds)}.")
    return made
