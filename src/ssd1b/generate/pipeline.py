"""The way from requests to pictures: text, noise, the denoising loop, the autoencoder.

The same numbers as diffusers' StableDiffusionXLPipeline, behind the `Denoiser` seam. Does not know where a
model came from, nor files. Shapes: B pictures, C channels, H and W rows and columns (latents: 1/8 of the
pixels).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from PIL import Image

from ssd1b.base.errors import RequestError
from ssd1b.base.units import latent_side
from ssd1b.generate import schedulers
from ssd1b.generate.engines import Conditioning
from ssd1b.generate.engines.reuse import Reusing
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


def sample(model: Model, requests: Sequence[Request], on_step: OnStep | None = None) -> list[Image.Image]:
    """Make one picture per request, all in one batch.

    Each picture's noise comes from its own seed alone, so the batch it is made in changes nothing but the
    last bit of rounding. The requests must be alike in size, steps, scheduler and guidance (see `batches`).

    Raises:
        RequestError: more steps than the scheduler has.
        Cancelled: whatever `on_step` raises ends the run and passes through.
    """
    latent_BCHW = sample_latents(model, requests, on_step)
    return [image_of(model.vae.decode(row_CHW[None])[0]) for row_CHW in latent_BCHW]


@torch.inference_mode()
def sample_latents(model: Model, requests: Sequence[Request], on_step: OnStep | None = None) -> Tensor:
    """As `sample`, but return the latents before decoding, (B, C, H, W) scaled as the UNet sees them."""
    assert requests, "a batch needs at least one request"
    assert len({_kind(request) for request in requests}) == 1, "requests of one batch must be alike"
    first = requests[0]
    guided = first.guided and not model.takes_guidance
    denoiser = reusing(model, first)
    cond = _conditioning(model, requests, guided)
    scheduler = schedulers.build(first.scheduler, model.scheduler_config, first.steps, model.placement.device)
    generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
    latent_BCHW: Tensor = _starting_noise(model, first, generators) * scheduler.init_noise_sigma
    options = _step_options(scheduler, generators)
    last_guided = math.ceil(first.guidance_until * len(scheduler.timesteps))
    for number, step in enumerate(scheduler.timesteps, 1):
        if guided and number > last_guided:
            guided, cond = False, cond.rows(slice(len(requests), None))
        noise_BCHW = _predict(denoiser, scheduler.scale_model_input(latent_BCHW, step), step, cond, guided)
        if guided:
            without_BCHW, with_BCHW = noise_BCHW.chunk(2)
            noise_BCHW = without_BCHW + first.guidance * (with_BCHW - without_BCHW)
        latent_BCHW = scheduler.step(noise_BCHW, step, latent_BCHW, **options, return_dict=False)[0]
        if on_step is not None:
            on_step(Step(number, len(scheduler.timesteps), latent_BCHW))
    return latent_BCHW


def batches(requests: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    """Cut requests, in order, into runs of at most `size` that can be made in one batch."""
    start = 0
    for end in range(1, len(requests) + 1):
        full = end - start == size
        if end == len(requests) or full or _kind(requests[end]) != _kind(requests[start]):
            yield requests[start:end]
            start = end


def image_of(pixels_CHW: Tensor) -> Image.Image:
    """Turn pixels in 0..1 into a picture of 8 bits a channel, rounding to nearest."""
    pixels_HWC = (pixels_CHW.float().cpu().permute(1, 2, 0).numpy() * 255).round().astype("uint8")
    return Image.fromarray(pixels_HWC)


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
    saved = (request.guidance_until, request.reuse, request.decoder)
    return request.width, request.height, request.steps, request.scheduler, request.guidance, *saved


def _conditioning(model: Model, requests: Sequence[Request], guided: bool) -> Conditioning:
    """Everything the UNet is told; with guidance, first the rows without the prompt, then those with it."""
    text = _encoded(model, [request.prompt for request in requests])
    if guided:
        text = joined(_negatives(model, requests), text)
    first = requests[0]
    ids_6 = time_ids((first.height, first.width))
    device, dtype = model.placement.device, text.context_BTC.dtype
    return Conditioning(
        context_BTC=text.context_BTC.to(device),
        pooled_BC=text.pooled_BC.to(device),
        time_ids_B6=torch.tensor([ids_6] * len(text), dtype=dtype, device=device),
        guidance_B=torch.full((len(text),), first.guidance) if model.takes_guidance else None,
    )


def _negatives(model: Model, requests: Sequence[Request]) -> TextBatch:
    """The rows to steer away from: each request's negative prompt, or what "nothing" means to this model."""
    encoded = _encoded(model, [request.negative or "" for request in requests])
    zeros = encoded.zeros()
    silent_B = torch.tensor(
        [request.negative is None and model.zero_negative for request in requests],
        device=encoded.context_BTC.device,
    )
    return TextBatch(
        torch.where(silent_B[:, None, None], zeros.context_BTC, encoded.context_BTC),
        torch.where(silent_B[:, None], zeros.pooled_BC, encoded.pooled_BC),
    )


def _encoded(model: Model, prompts: Sequence[str]) -> TextBatch:
    """Encode each different prompt by itself, so that its neighbours cannot change it.

    What was lately encoded is not encoded again, in this batch or in a later one.
    """
    known = {prompt: model.known_text.of(prompt, model.text) for prompt in dict.fromkeys(prompts)}
    return joined(*(known[prompt] for prompt in prompts))


def _starting_noise(model: Model, request: Request, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise, drawn on the processor so that every device starts from the same."""
    shape = (1, model.shape.in_channels, latent_side(request.height), latent_side(request.width))
    dtype = model.placement.dtype
    rows = [torch.randn(shape, generator=generator, dtype=dtype) for generator in generators]
    return torch.cat(rows).to(model.placement.device)


def _predict(
    denoiser: Denoiser, latent_BCHW: Tensor, step: Tensor, cond: Conditioning, guided: bool
) -> Tensor:
    rows_BCHW = torch.cat([latent_BCHW, latent_BCHW]) if guided else latent_BCHW
    return denoiser.predict_noise(rows_BCHW, step.expand(rows_BCHW.shape[0]), cond)


def _step_options(scheduler: SchedulerMixin, generators: list[torch.Generator]) -> dict[str, object]:
    """Schedulers that draw noise at each step (Euler a, LCM) draw every picture's from its own generator."""
    takes = inspect.signature(scheduler.step).parameters
    return {"generator": generators} if "generator" in takes else {}
