"""A denoiser without a network: for tests of everything around it.

Does not know any model; its answer depends on latents, timestep and conditioning, so mixing them up shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ssd1b.generate.engines import Conditioning


@dataclass(frozen=True, slots=True)
class FakeDenoiser:
    """Answers instantly and keeps the batch size of each call in `calls`."""

    calls: list[int] = field(default_factory=list)

    def predict_noise(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """Return latents scaled by time, shifted by the mean of the text."""
        self.calls.append(latent_BCHW.shape[0])
        share_B111 = (step_B.to(latent_BCHW.dtype) / 1000).view(-1, 1, 1, 1)
        text_B111 = cond.context_BTC.mean(dim=(1, 2)).view(-1, 1, 1, 1)
        return latent_BCHW * share_B111 + 0.1 * text_B111
