"""Where the denoising loop begins: at noise, at a picture noised part of the way, at a smaller picture.

The same draws in the same order as in diffusers' SDXL pipelines for image to image and inpainting. Does not
know the loop. Shapes: B pictures, C channels, H and W rows and columns of latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import interpolate

from ssd1b.base.units import VAE_SCALE, latent_side
from ssd1b.generate.canvas import WHITE_FROM, Canvases, fitted, given
from ssd1b.generate.pixels import image_of, pixels_of

if TYPE_CHECKING:
    from diffusers import SchedulerMixin
    from PIL import Image
    from torch import Tensor

    from ssd1b.generate.model import Model
    from ssd1b.generate.request import Request

Generators = Sequence[torch.Generator]


@dataclass(frozen=True, slots=True)
class Hold:
    """What keeps the picture outside the mask: its own latents, noised as far as the loop is, put back."""

    picture_BCHW: Tensor
    noise_BCHW: Tensor
    mask_B1HW: Tensor  # 1: painted anew

    def kept(self, latent_BCHW: Tensor, scheduler: SchedulerMixin, next_step: Tensor | None) -> Tensor:
        """The loop's latents under the mask, the picture's elsewhere; clean ones after the last step."""
        held_BCHW = self.picture_BCHW
        if next_step is not None:
            held_BCHW = scheduler.add_noise(held_BCHW, self.noise_BCHW, next_step[None])
        return (1 - self.mask_B1HW) * held_BCHW + self.mask_B1HW * latent_BCHW


@dataclass(frozen=True, slots=True)
class Start:
    """The first latents, the timesteps that are left to walk, and what is held fixed on the way."""

    latent_BCHW: Tensor
    timesteps_N: Tensor
    hold: Hold | None = None


Begin = Callable[["SchedulerMixin", Generators], Start]
"""Given a scheduler and each picture's generator, says where the loop begins."""


def at_noise(model: Model, request: Request) -> Begin:
    """Standard normal noise, for a picture from nothing but its prompt."""

    def begin(scheduler: SchedulerMixin, generators: Generators) -> Start:
        shape = (model.shape.in_channels, latent_side(request.height), latent_side(request.width))
        noise_BCHW = _noise(model, shape, generators)
        return Start(noise_BCHW * scheduler.init_noise_sigma, scheduler.timesteps)

    return begin


def at_canvas(model: Model, requests: Sequence[Request], canvases: Canvases) -> Begin:
    """The picture that each request names, noised back by its strength; with a mask, held outside it.

    Raises:
        RequestError: a picture or mask was not given.
    """
    first = requests[0]
    size = first.width, first.height
    images = [fitted(given(canvases, request.image), size) for request in requests]
    masks = [fitted(given(canvases, request.mask), size) for request in requests if request.mask]

    def begin(scheduler: SchedulerMixin, generators: Generators) -> Start:
        picture_BCHW = _encoded(model, images, generators)
        if not masks:
            return _noised(model, scheduler, picture_BCHW, first.strength, generators)
        mask_B1HW = torch.cat([_latent_mask(mask) for mask in masks]).to(picture_BCHW)
        noise_BCHW = _noise(model, picture_BCHW.shape[1:], generators)
        _posterior_noise(picture_BCHW, generators)  # diffusers encodes the masked picture too
        left_N = _left(scheduler, first.steps, first.strength)
        latent_BCHW = noise_BCHW * scheduler.init_noise_sigma
        if first.strength < 1:
            latent_BCHW = scheduler.add_noise(picture_BCHW, noise_BCHW, left_N[:1].repeat(len(images)))
        return Start(latent_BCHW, left_N, Hold(picture_BCHW, noise_BCHW, mask_B1HW))

    return begin


def at_smaller(model: Model, request: Request, latent_BCHW: Tensor) -> Begin:
    """What a first pass made, enlarged for a second one: "high-resolution fix"."""
    width, height = request.hires_size

    def begin(scheduler: SchedulerMixin, generators: Generators) -> Start:
        if request.hires_upscaler == "latent":
            size = latent_side(height), latent_side(width)
            larger_BCHW = interpolate(latent_BCHW, size, mode="bilinear", align_corners=False)
        else:
            images = [image_of(model.vae.decode(row_CHW[None])[0]) for row_CHW in latent_BCHW]
            enlarged = [fitted(image, (width, height)) for image in images]
            larger_BCHW = _encoded(model, enlarged, generators)
        return _noised(model, scheduler, larger_BCHW, request.hires_strength, generators)

    return begin


def _noised(
    model: Model, scheduler: SchedulerMixin, latent_BCHW: Tensor, strength: float, generators: Generators
) -> Start:
    left_N = _left(scheduler, len(scheduler.timesteps), strength)
    noise_BCHW = _noise(model, latent_BCHW.shape[1:], generators)
    return Start(scheduler.add_noise(latent_BCHW, noise_BCHW, left_N[:1].repeat(len(generators))), left_N)


def _left(scheduler: SchedulerMixin, steps: int, strength: float) -> Tensor:
    """The last timesteps, of which the scheduler is told; as many as the strength leaves."""
    first = steps - int(steps * strength)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    left_N: Tensor = scheduler.timesteps[first:]
    return left_N


def _encoded(model: Model, images: Sequence[Image.Image], generators: Generators) -> Tensor:
    """Scaled latents, one sample of each picture's posterior."""
    device, dtype = model.placement.device, model.placement.dtype
    rows = []
    for image, generator in zip(images, generators, strict=True):
        pixels_BCHW = pixels_of(image)[None]
        sides = [side // VAE_SCALE for side in pixels_BCHW.shape[2:]]
        noise_BCHW = torch.randn((1, model.shape.in_channels, *sides), generator=generator)
        rows.append(model.vae.encode(pixels_BCHW, noise_BCHW.to(device)).to(device, dtype))
    return torch.cat(rows)


def _posterior_noise(like_BCHW: Tensor, generators: Generators) -> None:
    """Draw what one more encoding would, and leave it."""
    for generator in generators:
        torch.randn((1, *like_BCHW.shape[1:]), generator=generator)


def _noise(model: Model, shape: Sequence[int], generators: Generators) -> Tensor:
    """Standard normal noise, drawn on the processor so that every device starts from the same."""
    dtype = model.placement.dtype
    rows = [torch.randn((1, *shape), generator=generator, dtype=dtype) for generator in generators]
    return torch.cat(rows).to(model.placement.device)


def _latent_mask(mask: Image.Image) -> Tensor:
    """(1, 1, H, W) of zeros and ones: a latent is painted anew where the corner of its square is white."""
    grey_HW = torch.from_numpy(np.asarray(mask).copy())
    return (grey_HW[None, None, ::VAE_SCALE, ::VAE_SCALE] >= WHITE_FROM).float()
