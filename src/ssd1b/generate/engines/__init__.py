"""The seam between the denoising loop and whatever runs the networks: two small protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the UNet is told about each picture of a batch, one row a picture.

    Attributes:
        context_BTC: text, token by token.
        pooled_BC: text, as a whole.
        time_ids_B6: original height and width, crop top and left, target height and width, in pixels.
        guidance_B: guidance scale, for models that take it as an input (LCM); None for all others.
    """

    context_BTC: Tensor
    pooled_BC: Tensor
    time_ids_B6: Tensor
    guidance_B: Tensor | None = None


class Denoiser(Protocol):
    """One UNet call. Torch, OpenVINO and the test fake all look like this."""

    def predict_noise(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """Return the UNet's answer for latents at timesteps `step_B` (0..999), same shape as the latents."""
        ...


class Autoencoder(Protocol):
    """Pixels to scaled latents and back."""

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Pixels in -1..1 to scaled latents, the mean of the posterior."""
        ...

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Scaled latents to pixels in 0..1, float32."""
        ...
