"""UNet and autoencoder run by PyTorch, as diffusers defines them.

Does not know prompts, schedulers or pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ssd1b.models.encoders import decode_latents, encode_pixels

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch import Tensor

    from ssd1b.generate.engines import Conditioning


@dataclass(frozen=True, slots=True)
class TorchDenoiser:
    """A `Denoiser` around diffusers' `UNet2DConditionModel`."""

    unet: UNet2DConditionModel

    def predict_noise(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """Run the UNet once, on whatever device and dtype it lives in."""
        noise_BCHW: Tensor = self.unet(
            latent_BCHW,
            step_B,
            encoder_hidden_states=cond.context_BTC,
            timestep_cond=self._guidance_embedding(cond),
            added_cond_kwargs={"text_embeds": cond.pooled_BC, "time_ids": cond.time_ids_B6},
            return_dict=False,
        )[0]
        return noise_BCHW

    def _guidance_embedding(self, cond: Conditioning) -> Tensor | None:
        """For a UNet that has learned guidance (LCM), else None."""
        n_channels = self.unet.config.time_cond_proj_dim
        if n_channels is None or cond.guidance_B is None:
            return None
        return guidance_embedding(cond.guidance_B, n_channels).to(self.unet.device, cond.context_BTC.dtype)


@dataclass(frozen=True, slots=True)
class TorchAutoencoder:
    """An `Autoencoder` around diffusers' `AutoencoderKL`."""

    vae: AutoencoderKL

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Pixels in -1..1 to scaled latents, the mean of the posterior."""
        return encode_pixels(self.vae, pixels_BCHW)

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Scaled latents to pixels in 0..1, float32."""
        return decode_latents(self.vae, latent_BCHW)


def guidance_embedding(guidance_B: Tensor, n_channels: int) -> Tensor:
    """Sines and cosines of guidance - 1, (B, n_channels), as LCM takes it (arXiv:2310.04378)."""
    half = n_channels // 2
    rate_H = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angle_BH = ((guidance_B.float().cpu() - 1) * 1000)[:, None] * rate_H[None, :]
    wave_BC = torch.cat([torch.sin(angle_BH), torch.cos(angle_BH)], dim=1)
    return torch.nn.functional.pad(wave_BC, (0, 1)) if n_channels % 2 else wave_BC
