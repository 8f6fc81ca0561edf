"""SDXL's noise schedule: how much of the picture is left at each timestep, and what a step is worth.

Knows the forward process and the loss weights that follow from its signal-to-noise ratio. Does not
know samplers (those are diffusers'), models or losses.

Legend: T the training timesteps (1000), B samples, CHW latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

MIN_SNR_GAMMA = 5.0  # arXiv:2303.09556, section 3.4
V_WEIGHT_CAP = 30.0  # without a cap the last timesteps (SNR 0.005) would outweigh all others


@dataclass(frozen=True, slots=True)
class Schedule:
    """alpha-bar per timestep: the share of the picture's variance that is left (DDPM, arXiv:2006.11239)."""

    alpha_bar_T: Tensor

    @classmethod
    def sdxl(cls) -> Schedule:
        """The "scaled linear" schedule of Stable Diffusion: square roots of beta from 0.00085 to 0.012."""
        beta_T = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
        return cls(torch.cumprod(1.0 - beta_T, dim=0))

    def __len__(self) -> int:
        """Number of timesteps."""
        return len(self.alpha_bar_T)

    def to(self, device: torch.device) -> Schedule:
        """The same schedule on another device."""
        return Schedule(self.alpha_bar_T.to(device))

    def add_noise(self, latent_BCHW: Tensor, noise_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """The latent at its timestep: sqrt(alpha-bar) * latent + sqrt(1 - alpha-bar) * noise."""
        alpha_bar_B111 = self.alpha_bar_T[timestep_B].view(-1, 1, 1, 1)
        return alpha_bar_B111.sqrt() * latent_BCHW + (1.0 - alpha_bar_B111).sqrt() * noise_BCHW

    def snr(self, timestep_B: Tensor) -> Tensor:
        """Signal-to-noise ratio, alpha-bar / (1 - alpha-bar), one number per sample."""
        alpha_bar_B = self.alpha_bar_T[timestep_B]
        return alpha_bar_B / (1.0 - alpha_bar_B)

    def weight(self, weighting: str, timestep_B: Tensor) -> Tensor:
        """Weight of each sample's epsilon loss under a named weighting (see WEIGHTINGS)."""
        return WEIGHTINGS[weighting](self.snr(timestep_B))


def _min_snr(snr_B: Tensor) -> Tensor:
    """min(SNR, gamma) / SNR: less for nearly clean pictures (Min-SNR, arXiv:2303.09556, eq. for epsilon)."""
    return snr_B.clamp(max=MIN_SNR_GAMMA) / snr_B


def _v(snr_B: Tensor) -> Tensor:
    """(SNR + 1) / SNR, capped: makes the epsilon loss equal to the v-prediction loss (arXiv:2202.00512).

    Gives weight to high noise, where the text decides the picture and the plain epsilon loss is blind.
    """
    return ((snr_B + 1.0) / snr_B).clamp(max=V_WEIGHT_CAP)


WEIGHTINGS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"uniform": torch.ones_like, "min-snr": _min_snr, "v": _v}
)
