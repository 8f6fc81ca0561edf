"""Seconds per picture, measured so that two models can be compared: warm, in turns, medians.

The models take turns picture by picture, so that whatever else the machine does hits all of them alike. This
module does not know what the pictures show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import TYPE_CHECKING

import torch

from ssd1b.evaluate.comparison import Speed
from ssd1b.generate import pipeline
from ssd1b.generate.pixels import image_of

if TYPE_CHECKING:
    from torch import Tensor

    from ssd1b.generate.engines import Conditioning, Denoiser
    from ssd1b.generate.model import Model
    from ssd1b.generate.request import Request

ROUNDS = 7


@dataclass(frozen=True, slots=True)
class Lap:
    """One picture's seconds: encoding the text, the denoising loop, decoding."""

    text: float
    unet: float
    vae: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.text + self.unet + self.vae


@dataclass(slots=True)
class _Starter:
    """A denoiser that notes when it is called first."""

    inner: Denoiser
    device: torch.device
    began: float | None = None

    def predict_noise(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """Hand on to the denoiser inside."""
        if self.began is None:
            self.began = _now(self.device)
        return self.inner.predict_noise(latent_BCHW, step_B, cond)


def measure(
    models: Sequence[Model],
    requests: Sequence[Request],
    rounds: int = ROUNDS,
    on_done: Callable[[int], None] = lambda _: None,
) -> list[Speed]:
    """Return each model's speed for one picture at a time.

    Args:
        models: taking turns in this order.
        requests: one per model; alike in size and steps.
        rounds: how many pictures of each are counted, after one that is not.
        on_done: hears of each picture.
    """
    laps: list[list[Lap]] = [[] for _ in models]
    for number in range(rounds + 1):
        for model, request, kept in zip(models, requests, laps, strict=True):
            lap = _lap(model, request)
            if number:
                kept.append(lap)
            on_done(1)
    return [speed_of(kept) for kept in laps]


def speed_of(laps: Sequence[Lap]) -> Speed:
    """Medians of laps, and the quartiles of their sums."""
    seconds = [lap.seconds for lap in laps]
    low, _, high = quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return Speed(
        seconds=median(seconds),
        quartiles=(low, high),
        text=median(lap.text for lap in laps),
        unet=median(lap.unet for lap in laps),
        vae=median(lap.vae for lap in laps),
        rounds=len(laps),
    )


def _lap(model: Model, request: Request) -> Lap:
    device = model.placement.device
    starter = _Starter(model.denoiser, device)
    began = _now(device)
    latent_BCHW = pipeline.sample_latents(replace(model, denoiser=starter), [request])
    drawn = _now(device)
    image_of(model.vae.decode(latent_BCHW)[0])
    done = _now(device)
    assert starter.began is not None, "a picture takes at least one step"
    return Lap(starter.began - began, drawn - starter.began, done - drawn)


def _now(device: torch.device) -> float:
    """The time when everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
