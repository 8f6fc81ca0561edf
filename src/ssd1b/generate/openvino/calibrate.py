"""What a model's networks are really fed while it makes pictures, and how far two engines drift apart.

Does not know how networks are quantised.
"""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from ssd1b.formats.openvino_ir import Drift
from ssd1b.generate import pipeline
from ssd1b.generate.model import KnownText, Model
from ssd1b.generate.openvino.denoiser import unet_inputs
from ssd1b.generate.pixels import image_of

if TYPE_CHECKING:
    from torch import Tensor

    from ssd1b.generate.engines import Conditioning, Denoiser
    from ssd1b.generate.openvino.quantise import Call
    from ssd1b.generate.request import Request

MAX_CALLS = 48
"""Calls of the UNet that are kept: more would not fit beside a model of full size."""


@dataclass(slots=True)
class Recorder:
    """A denoiser that keeps some rows of what goes through it, counted from 0: those in `kept`."""

    inner: Denoiser
    guidance_channels: int | None
    kept: frozenset[int]
    calls: list[Call] = field(default_factory=list)
    seen: int = 0

    def predict_noise(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """Hand on to the denoiser inside."""
        noise_BCHW = self.inner.predict_noise(latent_BCHW, step_B, cond)
        inputs = unet_inputs(latent_BCHW, step_B, cond, self.guidance_channels)
        for row in range(latent_BCHW.shape[0]):
            if self.seen in self.kept:
                arrays = {name: value[row : row + 1].numpy().copy() for name, value in inputs.items()}
                self.calls.append((arrays, noise_BCHW[row : row + 1].numpy().copy()))
            self.seen += 1
        return noise_BCHW


@dataclass(frozen=True, slots=True)
class Recording:
    """Calls of the UNet (inputs and answers) and the finished latents, one row a picture."""

    calls: Sequence[Call]
    latents: Sequence[Tensor]


def well_read(read: Callable[[], Model], requests: Sequence[Request]) -> Model:
    """Return a model that knows these requests' prompts by heart, without its text encoders in memory.

    They take half as much as the UNet, whose turn comes when they are done.

    Args:
        read: reads the model, nothing compiled yet; asked twice.
        requests: what will be drawn.
    """
    prompts = {(text, each.syntax) for each in requests for text in (each.prompt, each.negative or "")}
    prompts.add(("", "plain"))  # lengthens the shorter of a long prompt and its negative
    known, reader = KnownText(most=len(prompts)), read()
    for text, syntax in prompts:
        known.of(text, syntax, reader.text)
    del reader
    gc.collect()
    return replace(read(), known_text=known)


def recorded(model: Model, requests: Sequence[Request], on_step: Callable[[], None]) -> Recording:
    """Make the pictures of these requests, up to decoding, and keep what the UNet was fed.

    Calls are drawn at random over all requests, timesteps and both rows of guidance: any regular choice would
    see the same few timesteps of each picture.
    """
    rows = sum(
        request.steps * (2 if request.guided and not model.takes_guidance else 1) for request in requests
    )
    kept = frozenset(random.Random(0).sample(range(rows), min(rows, MAX_CALLS)))
    channels = getattr(model.denoiser, "guidance_channels", None)
    recorder = Recorder(model.denoiser, channels, kept)
    watched = replace(model, denoiser=recorder)
    latents = [pipeline.sample_latents(watched, [request], lambda _: on_step()) for request in requests]
    return Recording(recorder.calls, latents)


def drift_of(
    model: Model,
    requests: Sequence[Request],
    decoded: Sequence[np.ndarray],
    noise_error: float,
    on_step: Callable[[], None],
) -> Drift:
    """Make the same pictures with another engine and compare.

    Args:
        model: on the engine that is judged.
        requests: one per picture.
        decoded: the other engine's pictures, uint8 (H, W, 3).
        noise_error: of the UNet alone, as it goes into the record.
        on_step: hears of every step.
    """
    values = []
    for request, right in zip(requests, decoded, strict=True):
        latent_BCHW = pipeline.sample_latents(model, [request], lambda _: on_step())
        values.append(psnr_db(picture_of(model, latent_BCHW), right))
    return Drift(psnr_db=round(median(values), 2), noise_error=round(noise_error, 5), pictures=len(values))


def picture_of(model: Model, latent_BCHW: Tensor) -> np.ndarray:
    """The picture of one row of latents, uint8 (H, W, 3)."""
    return np.asarray(image_of(model.vae.decode(latent_BCHW)[0]))


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal over noise of two pictures of 8 bits, in decibels; 99 where they are the same."""
    error = float(np.square(one.astype(float) - other.astype(float)).mean())
    return min(99.0, 10 * math.log10(255**2 / error)) if error else 99.0
