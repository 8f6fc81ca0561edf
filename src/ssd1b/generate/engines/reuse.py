"""Deep features reused between steps: DeepCache (arXiv:2312.00858), cut at the UNet's topmost level.

From step to step the deep blocks' answer changes slowly. It is computed every few steps only, and in between
the blocks at full resolution go on from the last one: about a tenth of an SSD-1B step. Does not know how a
UNet is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ssd1b.generate.engines import Conditioning, DeepDenoiser


@dataclass(slots=True)
class Reusing:
    """A `Denoiser` for one run of the denoising loop: a whole call first, and then each `every`-th."""

    inner: DeepDenoiser
    every: int
    _calls: int = 0
    _deep_BCHW: Tensor | None = None

    def predict_noise(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """Run all of the UNet, or its top on what is kept.

        Where rows became fewer since (guidance has ended), the last ones go on.
        """
        whole = self._calls % self.every == 0
        self._calls += 1
        if whole or self._deep_BCHW is None:
            noise_BCHW, self._deep_BCHW = self.inner.predict_keeping(latent_BCHW, step_B, cond)
            return noise_BCHW
        self._deep_BCHW = self._deep_BCHW[-latent_BCHW.shape[0] :]
        return self.inner.predict_from(self._deep_BCHW, latent_BCHW, step_B, cond)
