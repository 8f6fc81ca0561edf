"""A rough look at unfinished latents, a thousand times cheaper than decoding them.

Latents are nearly a linear picture of the colours, so one small matrix per model is enough; it is measured
on the model's own autoencoder instead of written down, so that it fits any. Shapes: C latent channels, H
and W rows and columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ssd1b.base.units import VAE_SCALE
from ssd1b.generate.pixels import image_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ssd1b.generate.engines import Autoencoder

_SIDE_PX = 256
_PATCH_PX = 32


class Previewer:
    """Turns latents into thumbnails, one pixel a latent; the matrix is measured on first use of the class."""

    def __init__(self, vae: Autoencoder) -> None:
        generator = torch.Generator("cpu").manual_seed(0)
        patches = _SIDE_PX // _PATCH_PX
        colours_13PP = torch.rand((1, 3, patches, patches), generator=generator) * 2 - 1
        pixels_13HW = torch.nn.functional.interpolate(colours_13PP, size=(_SIDE_PX, _SIDE_PX))
        latent_CHW = vae.encode(pixels_13HW)[0].float().cpu()
        wanted_3HW = torch.nn.functional.avg_pool2d(pixels_13HW, VAE_SCALE)[0]
        self._matrix_D3 = torch.linalg.lstsq(
            _rows(latent_CHW), wanted_3HW.flatten(1).T, driver="gelsd"
        ).solution

    def image(self, latent_CHW: Tensor) -> Image:
        """Return a thumbnail of one picture's latents, (W, H) pixels large."""
        height, width = latent_CHW.shape[1:]
        rgb_N3 = _rows(latent_CHW.float().cpu()) @ self._matrix_D3
        return image_of((rgb_N3.T.reshape(3, height, width) * 0.5 + 0.5).clamp(0, 1))


def _rows(latent_CHW: Tensor) -> Tensor:
    """One row a latent pixel: its channels, and a 1 for the offset."""
    flat_NC = latent_CHW.flatten(1).T
    return torch.cat([flat_NC, torch.ones(len(flat_NC), 1)], dim=1)
