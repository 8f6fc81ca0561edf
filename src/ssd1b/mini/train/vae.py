"""Train the mini VAE: diffusers' AutoencoderKL, x8, four latent channels, on composed scenes.

Three of its four channels are pinned to the picture shrunk eight times, so that latents look like a picture,
as SDXL's do, and a UNet meets the coarse before the fine; the fourth is free, and small. Encoder and decoder
first learn that code from opposite sides, then together. At least eight channels in each GroupNorm group:
an earlier prototype forgot flat background colours with fewer (not compared again here).
"""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from ssd1b.base.seeds import seed_of
from ssd1b.mini.scenes import BUCKETS, draw, training_scene
from ssd1b.mini.train.loop import Parts, Schedule, fit

WARM_STEPS = 300
LATENT_NOISE = 0.1
COLOUR_SCALE = 2.0
FREE_POWER = 0.25  # mean square of the free channel
CROP_PX = 64
LATENT_PX = 8


def new_vae() -> AutoencoderKL:
    """An untrained mini VAE: 0.7 M parameters, SDXL's class and topology."""
    return AutoencoderKL(
        block_out_channels=(16, 16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=128,
        scaling_factor=1.0,
    )


def pictures(seed: int, first: int, count: int, bucket: tuple[int, int]) -> Tensor:
    """Training scenes `first` to `first + count` as float32 B3HW in -1..1."""
    drawn = np.stack([draw(training_scene(seed, first + n, bucket)) for n in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


def crops(seed: int, first: int, count: int) -> Tensor:
    """Squares of CROP_PX around the things of scenes, B3HW: backgrounds are easy to learn, sprites not."""
    cut = []
    for n in range(first, first + count):
        scene = training_scene(seed, n, BUCKETS[n % len(BUCKETS)])
        rng = random.Random(seed_of(seed, "crop", n))
        thing = rng.choice(scene.things)
        corner = [
            min(
                max((centre + rng.randint(-20, 20)) // LATENT_PX * LATENT_PX - CROP_PX // 2, 0),
                full - CROP_PX,
            )
            for centre, full in ((thing.x_px, scene.width_px), (thing.y_px, scene.height_px))
        ]
        cut.append(draw(scene)[corner[1] : corner[1] + CROP_PX, corner[0] : corner[0] + CROP_PX])
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 127.5 - 1


def thumbnail(image_B3HW: Tensor) -> Tensor:
    """The three pinned channels, B3hw with h = H / 8: mean colours of 8x8 patches, scaled."""
    return COLOUR_SCALE * F.avg_pool2d(image_B3HW, LATENT_PX)


def reconstruction_parts(image_B3HW: Tensor, again_B3HW: Tensor) -> Parts:
    """L1, squared error and the L1 of neighbouring differences, which keeps outlines sharp."""
    gap = again_B3HW - image_B3HW
    edges = [gap.diff(dim=dim).abs().mean() for dim in (-1, -2)]
    return {"l1": gap.abs().mean(), "mse": gap.square().mean(), "edges": (edges[0] + edges[1]) / 2}


def train(folder: Path, steps: int = 2600, batch: int = 8, seed: int = 1) -> AutoencoderKL:
    """Train (or resume in `folder`) the VAE; its `scaling_factor` gives latents unit variance."""
    torch.manual_seed(seed)
    vae = new_vae().to(memory_format=torch.channels_last)

    def loss_at(step: int) -> Parts:
        whole, first = step % 4 == 3, step * 2 * batch
        image = (
            pictures(seed, first, batch, BUCKETS[(step // 4) % 9]) if whole else crops(seed, first, 2 * batch)
        )
        image = image.contiguous(memory_format=torch.channels_last)
        code = thumbnail(image)
        posterior = vae.encode(image).latent_dist
        pinned, free = posterior.mean.split((3, 1), dim=1)
        noise = LATENT_NOISE * torch.randn(
            posterior.mean.shape, generator=torch.Generator().manual_seed(step)
        )
        latent = posterior.mean if step >= WARM_STEPS else torch.cat([code, torch.zeros_like(free)], dim=1)
        parts = reconstruction_parts(image, vae.decode(latent + noise).sample)
        parts["code"] = (pinned - code).square().mean()
        parts["size"] = (free.square().mean() - FREE_POWER).square()
        parts["spread"] = (posterior.logvar - 2 * math.log(LATENT_NOISE)).square().mean()
        loss = parts["l1"] + 2 * parts["mse"] + parts["edges"] + parts["code"]
        return {**parts, "loss": loss + 0.1 * parts["size"] + 0.01 * parts["spread"]}

    fit("vae", vae, loss_at, Schedule(steps, 2e-3), folder)
    with torch.inference_mode():
        image = pictures(seed + 1, 0, 256, BUCKETS[0])
        vae.register_to_config(scaling_factor=1 / float(vae.encode(image).latent_dist.mean.std()))
    return vae
