"""Pictures of 8 bits a channel into the networks' pixels, and back. Does not know latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor


def image_of(pixels_CHW: Tensor) -> Image.Image:
    """Turn pixels in 0..1 into a picture of 8 bits a channel, rounding to nearest."""
    pixels_HWC = (pixels_CHW.float().cpu().permute(1, 2, 0).numpy() * 255).round().astype("uint8")
    return Image.fromarray(pixels_HWC)


def pixels_of(image: Image.Image) -> Tensor:
    """Turn a picture into pixels in -1..1, (3, H, W), float32."""
    pixels_HWC = np.asarray(image.convert("RGB")).astype(np.float32) / 255
    return 2 * torch.from_numpy(pixels_HWC).permute(2, 0, 1) - 1
