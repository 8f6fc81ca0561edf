"""The way from requests to pictures: text, a start, the denoising loop, the autoencoder.

The same numbers as diffusers' SDXL pipelines (text to image, image to image, inpainting), behind the
`Denoiser` seam. Does not know where a model came from, nor files. Shapes: B pictures, C channels, H and W
rows and columns (latents: 1/8 of the pixels).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
from PIL import Image

from ssd1b.base.errors import RequestError
from ssd1b.base.units import VAE_SCALE
from ssd1b.generate import prompt, schedulers, starts
from ssd1b.generate.canvas import NOTHING_GIVEN, Canvases, fitted, given
from ssd1b.generate.engines import Conditioning
from ssd1b.generate.engines.reuse import Reusing
from ssd1b.generate.pixels import image_of
from ssd1b.models.encoders import TextBatch, joined, time_ids

if TYPE_CHECKING:
    from diffusers import SchedulerMixin
    from torch import Tensor

    from ssd1b.generate.engines import DeepDenoiser, Denoiser
    from ssd1b.generate.model import Model
    from ssd1b.generate.request import Request


class Cancelled(Exception):
    """Raised by an `on_step` callback to stop at once: no further UNet call, no decoding."""


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step: `number` counts from 1 to `total`; `latent_BCHW` is the batch as it stands."""

    number: int
    total: int
    latent_BCHW: Tensor


OnStep = Callable[[Step], None]


def sample(
    model: Model,
    requests: Sequence[Request],
    on_step: OnStep | None = None,
    canvases: Canvases = NOTHING_GIVEN,
) -> list[Image.Image]:
    """Make one picture per request, all in one batch.

    Each picture's noise comes from its own seed alone, so the batch it is made in changes nothing but the
    last bit of rounding. The requests must be alike in size, steps, scheduler and guidance (see `batches`).
    `canvases` holds what requests paint over, by its hash.

    Raises:
        RequestError: more steps than the scheduler has, or a picture that was not given.
        Cancelled: whatever `on_step` raises ends the run and passes through.
    """
    latent_BCHW = sample_latents(model, requests, on_step, canvases)
    images = [image_of(model.vae.decode(row_CHW[None])[0]) for row_CHW in latent_BCHW]
    return [_finished(*pair, canvases) for pair in zip(images, requests, strict=True)]


@torch.inference_mode()
def sample_latents(
    model: Model,
    requests: Sequence[Request],
    on_step: OnStep | None = None,
    canvases: Canvases = NOTHING_GIVEN,
) -> Tensor:
    """As `sample`, but return the latents before decoding, (B, C, H, W) scaled as the UNet sees them."""
    assert requests, "a batch needs at least one request"
    assert len({_kind(request) for request in requests}) == 1, "requests of one batch must be alike"
    first, done = requests[0], 0

    def tell(latent_BCHW: Tensor) -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(Step(done, first.n_steps, latent_BCHW))

    begin = starts.at_canvas(model, requests, canvases) if first.image else starts.at_noise(model, first)
    latent_BCHW = _walked(model, requests, begin, tell)
    if first.hires > 1:
        latent_BCHW = _walked(model, requests, starts.at_smaller(model, first, latent_BCHW), tell)
    return latent_BCHW


def _walked(
    model: Model, requests: Sequence[Request], begin: starts.Begin, tell: Callable[[Tensor], None]
) -> Tensor:
    """Walk the denoising loop once; every pass draws from each picture's seed anew."""
    first = requests[0]
    guided = first.guided and not model.takes_guidance
    denoiser = reusing(model, first)
    scheduler = schedulers.build(first.scheduler, model.scheduler_config, first.steps, model.placement.device)
    generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
    start = begin(scheduler, generators)
    latent_BCHW, steps = start.latent_BCHW, [*start.timesteps_N, None]
    cond = _conditioning(model, requests, guided, latent_BCHW)
    options = _step_options(scheduler, generators)
    last_guided = math.ceil(first.guidance_until * len(start.timesteps_N))
    for number, (step, next_step) in enumerate(pairwise(steps), 1):
        if guided and number > last_guided:
            guided, cond = False, cond.rows(slice(len(requests), None))
        noise_BCHW = _predict(denoiser, scheduler.scale_model_input(latent_BCHW, step), step, cond, guided)
        if guided:
            without_BCHW, with_BCHW = noise_BCHW.chunk(2)
            noise_BCHW = without_BCHW + first.guidance * (with_BCHW - without_BCHW)
        latent_BCHW = scheduler.step(noise_BCHW, step, latent_BCHW, **options, return_dict=False)[0]
        if start.hold is not None:
            latent_BCHW = start.hold.kept(latent_BCHW, scheduler, next_step)
        tell(latent_BCHW)
    return latent_BCHW


def batches(
    requests: Sequence[Request], size: int, model: Model | None = None
) -> Iterator[Sequence[Request]]:
    """Cut requests, in order, into runs of at most `size` that can be made in one batch.

    With the model at hand, prompts that it reads in different numbers of parts are kept apart as well: in one
    batch the shorter would be lengthened, which changes its picture.
    """

    @cache
    def n_parts(text: str, syntax: prompt.Syntax) -> int:
        return 1 if model is None else prompt.n_parts(model.text, text, syntax)

    kinds = [
        (_kind(each), max(n_parts(text, each.syntax) for text in (each.prompt, each.negative or "")))
        for each in requests
    ]
    start = 0
    for end in range(1, len(requests) + 1):
        full = end - start == size
        if end == len(requests) or full or kinds[end] != kinds[start]:
            yield requests[start:end]
            start = end


def reusing(model: Model, request: Request) -> Denoiser:
    """The model's denoiser or, where the request says so, one that reuses deep features between steps.

    Raises:
        RequestError: this UNet has no level that could go on without the deeper ones.
    """
    if request.reuse == 1:
        return model.denoiser
    if not (model.can_reuse and hasattr(model.denoiser, "predict_keeping")):
        raise RequestError(
            f"{model.name} cannot reuse deep features: the topmost level of its UNet attends to the text, or"
            f" its engine cannot be cut. Leave --reuse out."
        )
    return Reusing(cast("DeepDenoiser", model.denoiser), request.reuse)


def _kind(request: Request) -> tuple[object, ...]:
    """All that must be alike in a batch: everything but texts, seed, and which picture is painted over."""
    own = {"prompt", "negative", "seed", "model", "syntax", "image", "mask", "adapters"}
    rest = request.model_dump(exclude=own)
    return bool(request.image), bool(request.mask), request.adapters, *rest.values()


def _finished(image: Image.Image, request: Request, canvases: Canvases) -> Image.Image:
    """The picture with what the mask keeps put back to the pixel, enlarged where that was asked for."""
    if request.mask:
        around, mask = (fitted(given(canvases, each), image.size) for each in (request.image, request.mask))
        image = Image.composite(image, around, mask)
    if request.upscale > 1:
        size = image.width * request.upscale, image.height * request.upscale
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image


def _conditioning(
    model: Model, requests: Sequence[Request], guided: bool, latent_BCHW: Tensor
) -> Conditioning:
    """Everything the UNet is told; with guidance, first the rows without the prompt, then those with it."""
    negatives = [(request.negative or "", request.syntax) for request in requests if guided]
    text = _encoded(model, [*negatives, *((request.prompt, request.syntax) for request in requests)])
    if guided:
        text = joined(_silenced(model, requests, text.rows(len(requests))), text.rows(-len(requests)))
    first = requests[0]
    height, width = (VAE_SCALE * side for side in latent_BCHW.shape[2:])
    device, dtype = model.placement.device, text.context_BTC.dtype
    return Conditioning(
        context_BTC=text.context_BTC.to(device),
        pooled_BC=text.pooled_BC.to(device),
        time_ids_B6=torch.tensor([time_ids((height, width))] * len(text), dtype=dtype, device=device),
        guidance_B=torch.full((len(text),), first.guidance) if model.takes_guidance else None,
    )


def _silenced(model: Model, requests: Sequence[Request], encoded: TextBatch) -> TextBatch:
    """The rows to steer away from: each request's negative prompt, or what "nothing" means to this model."""
    zeros = encoded.zeros()
    silent_B = torch.tensor(
        [request.negative is None and model.zero_negative for request in requests],
        device=encoded.context_BTC.device,
    )
    return TextBatch(
        torch.where(silent_B[:, None, None], zeros.context_BTC, encoded.context_BTC),
        torch.where(silent_B[:, None], zeros.pooled_BC, encoded.pooled_BC),
    )


def _encoded(model: Model, texts: Sequence[tuple[str, prompt.Syntax]]) -> TextBatch:
    """Encode each different text by itself, so that its neighbours cannot change it, all equally long.

    What was lately encoded is not encoded again, in this batch or in a later one.
    """
    known = {text: model.known_text.of(*text, model.text) for text in dict.fromkeys(texts)}
    n_tokens = max(batch.context_BTC.shape[1] for batch in known.values())
    if any(batch.context_BTC.shape[1] < n_tokens for batch in known.values()):
        empty = model.known_text.of("", "plain", model.text)
        known = {text: prompt.lengthened(batch, n_tokens, empty) for text, batch in known.items()}
    return joined(*(known[text] for text in texts))


def _predict(
    denoiser: Denoiser, latent_BCHW: Tensor, step: Tensor, cond: Conditioning, guided: bool
) -> Tensor:
    rows_BCHW = torch.cat([latent_BCHW, latent_BCHW]) if guided else latent_BCHW
    return denoiser.predict_noise(rows_BCHW, step.expand(rows_BCHW.shape[0]), cond)


def _step_options(scheduler: SchedulerMixin, generators: list[torch.Generator]) -> dict[str, object]:
    """Schedulers that draw noise at each step (Euler a, LCM) draw every picture's from its own generator."""
    takes = inspect.signature(scheduler.step).parameters
    return {"generator": generators} if "generator" in takes else {}
