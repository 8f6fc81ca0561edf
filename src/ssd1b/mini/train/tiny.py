"""Train the mini tiny decoder: diffusers' AutoencoderTiny, TAESD's layout, to do what the mini VAE does.

It never sees a scene's own pixels as a target: the decoder learns what the VAE's decoder makes of a latent,
the encoder where the VAE's encoder puts a picture. It takes latents as the UNet sees them, as
madebyollin/taesdxl does, so its own scaling factor is one. Does not know how the VAE was trained.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from ssd1b.mini.scenes import BUCKETS
from ssd1b.mini.train.loop import Parts, Schedule, fit
from ssd1b.mini.train.vae import LATENT_NOISE, crops, pictures, reconstruction_parts
from ssd1b.models.encoders import decode_latents, encode_pixels

WIDTH = 16


def new_tiny() -> AutoencoderTiny:
    """An untrained one: 0.11 M parameters, TAESD's decoder at a quarter of its width, a shallower encoder."""
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(3, 3, 3, 1),
    )


def train(
    folder: Path, vae: AutoencoderKL, steps: int = 900, batch: int = 2, seed: int = 1
) -> AutoencoderTiny:
    """Train (or resume in `folder`) a tiny autoencoder for the latents of `vae`.

    Half of the latents of a batch are noisy, for both decoders alike: what a UNet draws is never quite what
    an encoder would give.
    """
    torch.manual_seed(seed)
    tiny = new_tiny()

    def loss_at(step: int) -> Parts:
        whole, first = step % 8 == 7, step * 2 * batch
        image = (
            pictures(seed, first, batch, BUCKETS[(step // 8) % 9]) if whole else crops(seed, first, 2 * batch)
        )
        latent = encode_pixels(vae, image).clone()  # a copy may take part in what is differentiated
        noisy = latent.clone()
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(step))
        noisy[::2] += LATENT_NOISE * noise[::2]
        wanted = 2 * decode_latents(vae, noisy) - 1
        parts = reconstruction_parts(wanted.clone(), tiny.decode(noisy).sample)
        parts["code"] = (tiny.encode(image).latents - latent).square().mean()
        return {**parts, "loss": parts["l1"] + 2 * parts["mse"] + parts["edges"] + parts["code"]}

    fit("tiny", tiny, loss_at, Schedule(steps, 3e-3, save_every=50), folder)
    return tiny
