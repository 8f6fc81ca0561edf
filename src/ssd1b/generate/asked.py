"""What a person asked for, with gaps, completed into requests by what the model is best at.

Does not know where the wish came from (command line, server) nor how pictures are made.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ssd1b.base.errors import RequestError
from ssd1b.base.units import aspects_of
from ssd1b.generate.request import MAX_SEED, Request, nearest_aspect, parse_aspect, parse_size, request_of

if TYPE_CHECKING:
    from ssd1b.generate.model import Model


@dataclass(frozen=True, slots=True)
class Savings:
    """Work left out at equal steps: see `Request` for what the numbers mean."""

    guidance_until: float = 1.0
    reuse: int = 1


NO_SAVINGS = Savings()


@dataclass(frozen=True, slots=True)
class Asked:
    """A wish: the prompt, and whatever else was said. None and "" mean that nothing was said.

    `size` is "1152x896" in pixels, `aspect` one of the nine ratios such as "9:7".
    """

    prompt: str
    negative: str | None = None
    size: str = ""
    aspect: str = ""
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    seed: int | None = None
    savings: Savings = NO_SAVINGS


def refuse_nonsense(asked: Asked) -> None:
    """Check what needs no model, before gigabytes are fetched or loaded.

    Raises:
        RequestError: as `completed` would say later.
    """
    fields: dict[str, object] = {"width": 1024, "height": 1024, "steps": 1, "guidance": 1, "seed": 0}
    said = {
        "steps": asked.steps,
        "guidance": asked.guidance,
        "seed": asked.seed,
        "scheduler": asked.scheduler,
    }
    fields |= asdict(asked.savings)
    fields |= {"scheduler": "euler"} | {name: value for name, value in said.items() if value is not None}
    request_of({**fields, "prompt": asked.prompt, "negative": asked.negative})
    if asked.size and asked.aspect:
        raise RequestError("Both a size and an aspect ratio were given. Give one of them.")
    if asked.aspect:
        parse_aspect(asked.aspect, sample_size=128)


def completed(asked: Asked, model: Model, count: int = 1) -> list[Request]:
    """Fill the gaps with the model's defaults; `count` requests with seeds counting up.

    Without a seed a new one of 32 bits is drawn (what other programs can take as well).

    Raises:
        RequestError: a value is out of range; size and aspect were both given.
    """
    refuse_nonsense(asked)
    defaults = model.defaults
    width, height = _size(asked, model)
    seed = random.SystemRandom().randrange(2**32 - count) if asked.seed is None else asked.seed
    if seed + count - 1 > MAX_SEED:
        raise RequestError(f"Seeds go up to {MAX_SEED}; {count} pictures from seed {seed} do not fit.")
    fields: dict[str, object] = {
        "prompt": asked.prompt,
        "negative": asked.negative,
        "width": width,
        "height": height,
        "steps": defaults.steps if asked.steps is None else asked.steps,
        "guidance": defaults.guidance if asked.guidance is None else asked.guidance,
        "scheduler": defaults.scheduler if asked.scheduler is None else asked.scheduler,
        "model": model.name,
        "decoder": model.decoder,
        **asdict(asked.savings),
    }
    return [request_of({**fields, "seed": seed + number}) for number in range(count)]


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
    for word, text in (("prompt", request.prompt), ("negative prompt", request.negative or "")):
        rest = model.text.overflow(text)
        if rest:
            said.append(f'The {word} is too long for this model; it does not see the end: "{rest}".')
    return said


def _size(asked: Asked, model: Model) -> tuple[int, int]:
    if asked.size:
        return parse_size(asked.size, model.shape.sample_size)
    if asked.aspect:
        return parse_aspect(asked.aspect, model.shape.sample_size)
    return model.defaults.width, model.defaults.height
