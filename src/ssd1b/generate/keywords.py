"""What a call in Python says, as wishes: the same that the options of the command line become.

Does not know models, nor how pictures are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from PIL import Image

from ssd1b.base.errors import RequestError, did_you_mean
from ssd1b.generate.asked import Asked
from ssd1b.generate.canvas import Canvas, Source, read_canvas
from ssd1b.generate.wildcards import Wildcards

if TYPE_CHECKING:
    from ssd1b.generate.pipeline import OnStep

MAX_COUNT, MAX_BATCH = 10_000, 256
_MORE = ("guidance_until", "reuse", "strength", "hires", "hires_strength", "hires_upscaler", "upscale")
"""What goes into a request as it is, under the same name."""

Picture = str | Path | bytes | Image.Image
"""A file's name, a file's bytes, or a picture in memory."""


class Said(TypedDict, total=False):
    """Everything a picture can be asked for beside its prompt; what is left out or None, the model decides.

    Attributes:
        negative: what is not to be seen; "" and nothing differ (see `Request`).
        size: (width, height) in pixels, or "1152x896"; multiples of 8.
        width: in pixels, together with height, where `size` is not given.
        height: in pixels.
        aspect: one of the nine ratios, such as "9:7", at the model's own size.
        steps: UNet calls.
        guidance: how strongly to follow the prompt; 1 or less is off, and twice as fast.
        scheduler: a name of `schedulers.NAMES`.
        seed: same seed, same picture; left out: a new one.
        count: how many pictures of each prompt, with seeds counting up.
        batch: how many at once; above 1 the last bit of rounding may differ.
        image: a picture to paint over.
        mask: where to paint over it, of the picture's own size: white is painted anew, black stays.
        strength: how far to go from it, above 0 and up to 1.
        hires: second pass, so many times larger a side: 1 to 4.
        hires_strength: how far the second pass goes from the first.
        hires_upscaler: what is enlarged between the passes.
        upscale: how many times larger a side the finished picture is made, by Lanczos.
        guidance_until: share of the steps that are guided, from the first.
        reuse: the UNet's deep blocks run in each so many-th step only (DeepCache).
        wildcards: a folder of text files; __color__ takes a line of color.txt.
        plain: whether brackets, BREAK and gaps in prompts are taken as they stand.
        on_step: hears of each step of each batch, with the latents; may raise `Cancelled`.
    """

    negative: str | None
    size: str | tuple[int, int] | None
    width: int | None
    height: int | None
    aspect: str | None
    steps: int | None
    guidance: float | None
    scheduler: str | None
    seed: int | None
    count: int | None
    batch: int | None
    image: Picture | None
    mask: Picture | None
    strength: float | None
    hires: float | None
    hires_strength: float | None
    hires_upscaler: Literal["latent", "lanczos"] | None
    upscale: int | None
    guidance_until: float | None
    reuse: int | None
    wildcards: str | Path | None
    plain: bool
    on_step: OnStep | None


@dataclass(frozen=True, slots=True)
class Call:
    """One call, read: wishes (one a prompt), how many pictures of each, how many at once."""

    asked: Sequence[Asked]
    count: int
    batch: int


def call_of(prompt: str | Sequence[str], said: Said) -> Call:
    """Read what was said; values that a request can judge are left to it.

    Raises:
        RequestError: a keyword nobody knows, or values that do not fit together.
        MissingFileError, DamagedFileError: a picture to paint over cannot be read.
    """
    known = Said.__annotations__
    for name in said:
        if name not in known:
            raise RequestError(f"A picture cannot be asked for '{name}'.{did_you_mean(name, known)}")
    texts = prompt if isinstance(prompt, Sequence) and not isinstance(prompt, str) else [prompt]
    if not texts:
        raise RequestError("The list of prompts is empty. Give at least one.")
    count = _number("count", said.get("count"), MAX_COUNT)
    batch = _number("batch", said.get("batch"), MAX_BATCH)
    first = _asked(texts[0], said)
    return Call([replace(first, prompt=text) for text in texts], count, batch)


def _asked(text: str, said: Said) -> Asked:
    more: dict[str, object] = {name: value for name, value in said.items() if name in _MORE}
    folder = said.get("wildcards")
    return Asked(
        text,
        negative=said.get("negative"),
        size=_size(said),
        aspect=str(said.get("aspect") or ""),
        steps=said.get("steps"),
        guidance=said.get("guidance"),
        scheduler=said.get("scheduler"),
        seed=said.get("seed"),
        canvas=_canvas(said),
        more={**more, "syntax": "plain" if said.get("plain") else None},
        wildcards=Wildcards(None if folder is None else Path(folder)),
    )


def _size(said: Said) -> str:
    """The size as text, however it was said; "" where it was not."""
    size, sides = said.get("size"), (said.get("width"), said.get("height"))
    if sides != (None, None) and None in sides:
        raise RequestError("Of width and height only one was given. Give both, or an aspect ratio.")
    if sides != (None, None) and size is not None:
        raise RequestError("A size was given, and width and height too. Give one of them.")
    chosen = (size or "") if sides == (None, None) else sides
    return chosen if isinstance(chosen, str) else "x".join(str(side) for side in _parts(chosen))


def _parts(said: object) -> Sequence[object]:
    return said if isinstance(said, Sequence) else [said]


def _canvas(said: Said) -> Canvas | None:
    image, mask = (_source(name, said.get(name)) for name in ("image", "mask"))
    if image is not None:
        return read_canvas(image, mask)
    if mask is not None:
        raise RequestError("A mask says where to paint over a picture; give the picture as image=.")
    return None


def _source(name: str, said: object) -> Source | None:
    if isinstance(said, str):
        return Path(said)
    if said is None or isinstance(said, Path | bytes | Image.Image):
        return said
    raise RequestError(
        f"'{name}' is of type {type(said).__name__}. Give a file's name or bytes, or a picture of Pillow."
    )


def _number(name: str, said: object, most: int) -> int:
    """A count of something, from 1; 1 where nothing was said."""
    value = 1 if said is None else said
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise RequestError(f"'{name}' is a whole number from 1 to {most}; {value!r} was given.")
    return value
