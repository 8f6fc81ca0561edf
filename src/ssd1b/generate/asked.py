"""What a person asked for, with gaps, completed into requests by what the model is best at.

Does not know where the wish came from (command line, server) nor how pictures are made.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssd1b.base.errors import RequestError
from ssd1b.base.units import aspects_of
from ssd1b.generate import prompt as prompts
from ssd1b.generate.request import MAX_SEED, Request, nearest_aspect, parse_aspect, parse_size, request_of
from ssd1b.generate.wildcards import Wildcards

if TYPE_CHECKING:
    from ssd1b.generate.canvas import Canvas
    from ssd1b.generate.model import Model

STRENGTH = 0.6
"""Of painting over a picture, where nothing was said: clearly changed, and still the same composition."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A wish: the prompt, and whatever else was said. None and "" mean that nothing was said.

    Attributes:
        size: "1152x896" in pixels.
        aspect: one of the nine ratios, such as "9:7".
        canvas: what is to be painted over.
        more: any other field of a `Request`, by its name; None where nothing was said.
        wildcards: fills the gaps of the prompts, from each picture's own seed.
    """

    prompt: str
    negative: str | None = None
    size: str = ""
    aspect: str = ""
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    seed: int | None = None
    canvas: Canvas | None = None
    more: Mapping[str, object] = field(default_factory=dict)
    wildcards: Wildcards = field(default_factory=Wildcards)

    def said(self) -> dict[str, object]:
        """The fields of a request that were said, size and texts aside."""
        values = {
            "steps": self.steps,
            "guidance": self.guidance,
            "scheduler": self.scheduler,
            "seed": self.seed,
            "negative": self.negative,
            **self.more,
        }
        return {name: value for name, value in values.items() if value is not None}


def refuse_nonsense(asked: Asked) -> None:
    """Check what needs no model, before gigabytes are fetched or loaded.

    Raises:
        RequestError: as `completed` would say later.
    """
    painted = {} if asked.canvas is None else asked.canvas.fields()
    fields: dict[str, object] = {"width": 64, "height": 64, "steps": 1000, "guidance": 1, "seed": 0}
    fields |= {"scheduler": "euler", "prompt": asked.prompt, **painted, **asked.said()}
    request = _filled(request_of(fields), asked.wildcards)
    if request.syntax == "weighted":
        for text in (request.prompt, request.negative or ""):
            prompts.parse(text)
    if asked.size and asked.aspect:
        raise RequestError("Both a size and an aspect ratio were given. Give one of them.")
    if asked.aspect:
        parse_aspect(asked.aspect, sample_size=128)


def completed(asked: Asked, model: Model, count: int = 1, like: Request | None = None) -> list[Request]:
    """Fill the gaps with the model's defaults; `count` requests with seeds counting up.

    Without a seed a new one of 32 bits is drawn (what other programs can take as well). With `like` the gaps
    are filled from that request instead, its seed included.

    Raises:
        RequestError: a value is out of range; size and aspect were both given; what `like` was painted over
            or decoded with was not given.
    """
    refuse_nonsense(asked)
    fields = {**_defaults(model), **_painted(asked)} if like is None else _likeness(asked, model, like)
    seed = fields.get("seed") if asked.seed is None else asked.seed
    if not isinstance(seed, int):
        seed = random.SystemRandom().randrange(2**32 - count)
    if seed + count - 1 > MAX_SEED:
        raise RequestError(f"Seeds go up to {MAX_SEED}; {count} pictures from seed {seed} do not fit.")
    fields |= {**_size(asked, model, like), **asked.said(), "prompt": asked.prompt}
    fields |= {"model": model.name, "decoder": model.decoder, "adapters": _adapters(model)}
    several = [request_of({**fields, "seed": seed + number}) for number in range(count)]
    return [_filled(request, asked.wildcards) for request in several]


def remarks(request: Request, model: Model) -> list[str]:
    """Say what is worth knowing before waiting: text that is cut off, a size that was not trained."""
    said = []
    size = (request.width, request.height)
    presets = aspects_of(model.shape.sample_size)
    if size not in presets.values():
        name, (width, height) = nearest_aspect(*size, model.shape.sample_size)
        said.append(
            f"{size[0]}x{size[1]} is none of the nine sizes this model was trained on; the nearest is"
            f" {width}x{height} (--aspect {name})."
        )
    card = model.defaults.source == "SSD-1B's model card"
    if card and not request.negative and request.guided:
        said.append("SSD-1B's card encourages a negative prompt; none was given (--negative).")
    for word, text in (("prompt", request.prompt), ("negative prompt", request.negative or "")):
        said += _remarks_on_text(word, text, request, model)
    return said


def _remarks_on_text(word: str, text: str, request: Request, model: Model) -> list[str]:
    rest = model.text.overflow(text) if request.syntax == "plain" else ""
    if rest:
        return [f'The {word} is too long for this model; it does not see the end: "{rest}".']
    parts = prompts.n_parts(model.text, text, request.syntax)
    if parts == 1:
        return []
    return [f"The {word} is read in {parts} parts of up to {model.text.max_tokens - 2} tokens."]


def _filled(request: Request, wildcards: Wildcards) -> Request:
    """The request with the gaps of its texts filled in; a plain one has none."""
    if request.syntax == "plain":
        return request
    texts = {name: wildcards.filled(text, request.seed) for name, text in _texts(request).items()}
    return request if texts == _texts(request) else request_of({**request.model_dump(), **texts})


def _texts(request: Request) -> dict[str, str]:
    said = {"prompt": request.prompt, "negative": request.negative}
    return {name: text for name, text in said.items() if text is not None}


def _defaults(model: Model) -> dict[str, object]:
    """What a model is best asked for, as fields of a request."""
    chosen = model.defaults
    return {"steps": chosen.steps, "guidance": chosen.guidance, "scheduler": chosen.scheduler}


def _painted(asked: Asked) -> dict[str, object]:
    return {} if asked.canvas is None else {"strength": STRENGTH, **asked.canvas.fields()}


def _likeness(asked: Asked, model: Model, like: Request) -> dict[str, object]:
    """The fields of another picture; what it names by hash or name only must be there now."""
    if like.decoder != model.decoder:
        needed = f"with the tiny decoder '{like.decoder}'" if like.decoder else "without a tiny decoder"
        raise RequestError(f"That picture was made {needed}; do the same with --tiny-decoder.")
    _refuse_bare(model, like)
    painted = {} if asked.canvas is None else asked.canvas.fields()
    if like.image and like.image != painted.get("image"):
        raise RequestError(
            f"That picture was painted over one with the hash {like.image[:12]}…, which is not the one given"
            " with --image, if any was. Give the picture that it was painted over."
        )
    if like.image and like.mask != painted.get("mask", ""):
        raise RequestError("That picture was made with another mask, or none. Give --mask as it was then.")
    strength = {"strength": STRENGTH} if painted and not like.image else {}
    return {**like.model_dump(), **painted, **strength}


def _refuse_bare(model: Model, like: Request) -> None:
    """Refuse to repeat a picture without the adapters that it was made with."""
    worn = {each.digest for each in model.adapters}
    missing = [f"{each.name}:{each.weight:g}" for each in like.adapters if each.digest not in worn]
    if missing:
        digest = next(each.digest for each in like.adapters if each.digest not in worn)
        raise RequestError(
            f"That picture was made with the LoRA {', '.join(missing)} (SHA-256 {digest[:12]}…), which is not"
            " among the files given. Give the same file with --lora."
        )


def _adapters(model: Model) -> list[dict[str, object]]:
    return [each.model_dump() for each in model.adapters]


def _size(asked: Asked, model: Model, like: Request | None) -> dict[str, object]:
    """Width and height: as asked for, as `like` has them, in the shape of the canvas, or the model's."""
    if asked.size:
        width, height = parse_size(asked.size, model.shape.sample_size)
    elif asked.aspect:
        width, height = parse_aspect(asked.aspect, model.shape.sample_size)
    elif like is not None:
        width, height = like.width, like.height
    elif asked.canvas is not None:
        width, height = nearest_aspect(*asked.canvas.image.size, model.shape.sample_size)[1]
    else:
        width, height = model.defaults.width, model.defaults.height
    return {"width": width, "height": height}
