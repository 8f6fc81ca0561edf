"""The UNet run by PyTorch, as diffusers defines it.

Does not know prompts, schedulers or pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
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
        """Sines and cosines of guidance - 1, for a UNet that has learned guidance (arXiv:2310.04378)."""
        size = self.unet.config.time_cond_proj_dim
        if size is None or cond.guidance_B is None:
            return None
        half = size // 2
        rate_H = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
        angle_BH = ((cond.guidance_B.float().cpu() - 1) * 1000)[:, None] * rate_H[None, :]
        wave_BC = torch.cat([torch.sin(angle_BH), torch.cos(angle_BH)], dim=1)
        if size % 2:
            wave_BC = torch.nn.functional.pad(wave_BC, (0, 1))
        return wave_BC.to(self.unet.device, cond.context_BTC.dtype)
