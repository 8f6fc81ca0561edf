"""What one picture is asked to be: prompt, size, steps, seed.

A request is complete (every default is filled in), so it can be written into the picture and repeated. What
it is painted over stands in it by its hash only; the pixels travel beside it. This module does not know
models; what fits which model is `defaults`' business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from ssd1b.base.errors import RequestError, did_you_mean
from ssd1b.base.units import VAE_SCALE, aspects_of
from ssd1b.generate.schedulers import kind_of

MAX_SEED = 2**63 - 1
MIN_SIDE_PX, MAX_SIDE_PX, MAX_UPSCALED_PX = 64, 4096, 8192
MAX_PROMPT_CHARACTERS = 20_000
MAX_WEIGHT = 100


def _sayable(text: str) -> str:
    """Text that can be encoded at all; half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half a character (a lone surrogate) that no text file can hold") from error
    return text


def _on_the_grid(side_px: int) -> int:
    if side_px % VAE_SCALE:
        raise ValueError(f"must be a multiple of {VAE_SCALE} pixels")
    return side_px


def _known_scheduler(name: str) -> str:
    try:
        kind_of(name)
    except RequestError as error:
        raise ValueError(str(error)) from error
    return name


Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_sayable)]
Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Share = Annotated[float, Field(gt=0, le=1, strict=False)]
Side = Annotated[int, Field(ge=MIN_SIDE_PX, le=MAX_SIDE_PX), AfterValidator(_on_the_grid)]


class Worn(BaseModel):
    """A LoRA adapter that a picture was made with.

    Attributes:
        name: of its file, without folder and suffix.
        weight: how strongly it was added; 1 is as it was trained.
        digest: SHA-256 of the file.
        data_digest: SHA-256 of the file without its header, by which A1111 knows it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Text
    weight: Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False, strict=False)] = 1.0
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    data_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _listed(adapters: tuple[Worn, ...]) -> list[dict[str, object]]:
    """As JSON has them."""
    return [each.model_dump() for each in adapters]


class Request(BaseModel):
    """One picture, fully described: the same request gives the same picture.

    Attributes:
        prompt: what is to be seen.
        negative: what is not to be seen; None (nothing was said) and "" differ for models such as SDXL that
            were trained to take "nothing" as zeros.
        width: in pixels, as height; multiples of 8.
        steps: UNet calls (twice as much work with guidance).
        guidance: how strongly to follow the prompt; 1 or less switches guidance off.
        scheduler: a name of `schedulers.NAMES`.
        seed: of the starting noise; the same numbers as `torch.Generator("cpu").manual_seed(seed)`.
        model: the model's name, as it was asked for.
        guidance_until: share of the steps that are guided, the first ones; the rest cost half.
        reuse: the UNet's deep blocks run in each so many-th step only (DeepCache); 1: in all.
        decoder: the name of a tiny decoder that is used instead of the model's own; "": its own.
        syntax: "weighted" reads weights, BREAK and any length (see `prompt`); "plain" takes every character
            as it stands and cuts off what does not fit, as stock diffusers does.
        image: hash of the picture to start from (see `canvas.digest_of`); "": from noise alone.
        mask: hash of what is to be painted anew in it (white) and what is to stay (black); "": all of it.
        strength: share of the steps that the picture is noised back by; 1: all but nothing of it is left.
        hires: how many times larger, along a side, a second pass makes the picture; 1: no second pass.
        hires_strength: share of the steps that the second pass walks.
        hires_upscaler: what is enlarged between the passes: the "latent", or the picture ("lanczos").
        upscale: how many times larger, along a side, the finished picture is made, by Lanczos.
        adapters: the LoRA adapters that are worn, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Text
    negative: Text | None = None
    width: Side
    height: Side
    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False, strict=False)]
    scheduler: Annotated[str, AfterValidator(_known_scheduler)]
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    model: Text = ""
    guidance_until: Share = 1.0
    reuse: Annotated[int, Field(ge=1, le=20)] = 1
    decoder: Text = ""
    syntax: Literal["weighted", "plain"] = "weighted"
    image: Digest = ""
    mask: Digest = ""
    strength: Share = 1.0
    hires: Annotated[float, Field(ge=1, le=4, strict=False)] = 1.0
    hires_strength: Share = 0.7
    hires_upscaler: Literal["latent", "lanczos"] = "latent"
    upscale: Annotated[int, Field(ge=1, le=4)] = 1
    adapters: Annotated[tuple[Worn, ...], Field(max_length=32, strict=False), PlainSerializer(_listed)] = ()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        """What no field can see by itself."""
        if not self.image and (self.mask or self.strength < 1):
            raise ValueError("A mask and a strength are for painting over a picture; give the picture too.")
        if self.mask and self.hires > 1:
            raise ValueError("A second pass would paint over what the mask keeps; leave one of them out.")
        if max(self.hires_size) > MAX_SIDE_PX:
            raise ValueError(f"The second pass would have more than {MAX_SIDE_PX} pixels a side.")
        if max(self.hires_size) * self.upscale > MAX_UPSCALED_PX:
            raise ValueError(f"The finished picture would have more than {MAX_UPSCALED_PX} pixels a side.")
        second = self.hires_strength if self.hires > 1 else 1.0
        for name, share in (("strength", self.strength), ("hires_strength", second)):
            if int(self.steps * share) < 1:
                raise ValueError(f"A {name} of {share:g} leaves none of {self.steps} steps; give more steps.")
        return self

    @property
    def guided(self) -> bool:
        """Whether the UNet is asked twice a step, with and without the prompt."""
        return self.guidance > 1

    @property
    def hires_size(self) -> tuple[int, int]:
        """(width, height) of the second pass, in pixels, on the grid."""
        width, height = (
            round(side * self.hires / VAE_SCALE) * VAE_SCALE for side in (self.width, self.height)
        )
        return width, height

    @property
    def n_steps(self) -> int:
        """How many steps are really walked, in both passes."""
        first = int(self.steps * self.strength) if self.image else self.steps
        return first + (int(self.steps * self.hires_strength) if self.hires > 1 else 0)


def request_of(fields: Mapping[str, object]) -> Request:
    """Check raw values and make a request of them.

    Raises:
        RequestError: in one paragraph, every field that is missing, unknown or out of range.
    """
    try:
        return Request.model_validate(dict(fields))
    except ValidationError as error:
        raise RequestError(_said_plainly(error)) from error


def parse_size(text: str, sample_size: int) -> tuple[int, int]:
    """Read "1152x896" (or with × or *) as (width, height) in pixels.

    Raises:
        RequestError: not a size, or not on the grid of 8 pixels; the nearest preset is named.
    """
    found = re.fullmatch(r"\s*(\d{1,6})\s*[xX×*]\s*(\d{1,6})\s*", text)
    if not found:
        raise RequestError(
            f"'{text}' is not a size. Write width x height in pixels, such as {_example(sample_size)}."
        )
    width, height = int(found[1]), int(found[2])
    if min(width, height) < MIN_SIDE_PX or max(width, height) > MAX_SIDE_PX:
        raise RequestError(f"A side must have {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels; {text} was asked for.")
    if width % VAE_SCALE or height % VAE_SCALE:
        name, (near_width, near_height) = nearest_aspect(width, height, sample_size)
        raise RequestError(
            f"Width and height must be multiples of {VAE_SCALE}; {text} was asked for. The nearest size "
            f"this model was trained on is {near_width}x{near_height} (--aspect {name})."
        )
    return width, height


def parse_aspect(text: str, sample_size: int) -> tuple[int, int]:
    """Read one of the nine aspect ratios ("9:7", also "9/7" or "9x7") as (width, height) in pixels.

    Raises:
        RequestError: not one of the nine; the nearest is named.
    """
    presets = aspects_of(sample_size)
    name = re.sub(r"\s*[/xX×]\s*", ":", text.strip())
    if name in presets:
        return presets[name]
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", name)
    hint = did_you_mean(name, presets)
    if found and int(found[1]) and int(found[2]):
        hint = f" The nearest is {nearest_aspect(int(found[1]), int(found[2]), sample_size)[0]}."
    raise RequestError(f"'{text}' is not one of the nine aspect ratios: {', '.join(presets)}.{hint}")


def nearest_aspect(width: int, height: int, sample_size: int) -> tuple[str, tuple[int, int]]:
    """Return name and (width, height) of the preset whose shape is closest, by the logarithm of the ratio."""
    wanted = math.log(width / height)
    presets = aspects_of(sample_size).items()
    return min(presets, key=lambda preset: abs(math.log(preset[1][0] / preset[1][1]) - wanted))


def _example(sample_size: int) -> str:
    width, height = aspects_of(sample_size)["9:7"]
    return f"{width}x{height}"


def _said_plainly(error: ValidationError) -> str:
    """One sentence a field, without pydantic's vocabulary."""
    sentences = []
    for problem in error.errors(include_url=False):
        field = ".".join(str(part) for part in problem["loc"])
        said = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            said = f"is not a field of a request.{did_you_mean(field, Request.model_fields)}"
        elif problem["type"] == "missing":
            said = "is missing"
        elif problem["type"] == "literal_error":
            said = f"must be {problem['ctx']['expected']}"
        named = f"'{field}': {said}" if field else said
        sentences.append(named if named.endswith((".", "?")) else f"{named}.")
    return "This picture cannot be made. " + " ".join(sentences)
