"""The seam between the denoising loop and whatever runs the networks: small protocols."""

from __future__ import annotations

from collections.abc import Callable
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

    def rows(self, which: slice) -> Conditioning:
        """Some of the rows."""
        return Conditioning(
            self.context_BTC[which],
            self.pooled_BC[which],
            self.time_ids_B6[which],
            None if self.guidance_B is None else self.guidance_B[which],
        )


class Denoiser(Protocol):
    """One UNet call. Torch, OpenVINO and the test fake all look like this."""

    def predict_noise(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """Return the UNet's answer for latents at timesteps `step_B` (0..999), same shape as the latents."""
        ...


class DeepDenoiser(Denoiser, Protocol):
    """A denoiser whose deep blocks can be left out of a call (see `engines.reuse`).

    The UNet is cut where the last block at full resolution begins: "deep" is what comes in there from below.
    """

    def predict_keeping(
        self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """As `predict_noise`, and the deep features (B, C, H, W) of that call beside it."""
        ...

    def predict_from(
        self, deep_BCHW: Tensor, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning
    ) -> Tensor:
        """Return what the UNet answers if its deep blocks gave `deep_BCHW`; they are not run."""
        ...


class Autoencoder(Protocol):
    """Pixels to scaled latents and back."""

    def encode(self, pixels_BCHW: Tensor, noise_BCHW: Tensor | None = None) -> Tensor:
        """Pixels in -1..1 to scaled latents: the mean of the posterior or, with noise, a sample of it."""
        ...

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Scaled latents to pixels in 0..1, float32."""
        ...


def in_rows(n_rows: int, at_once: int, call: Callable[[slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Call for at most `at_once` rows at a time and put the answers' rows together again."""
    import torch

    parts = [call(slice(row, row + at_once)) for row in range(0, n_rows, at_once)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(rows) for rows in zip(*parts, strict=True))
