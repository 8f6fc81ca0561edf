"""The parts of a picture, one call each, as every engine runs them.

Made inside the measuring process (`worker`), one engine there at a time. A part is loaded when it is first
run, so that a process that only runs the UNet holds only the UNet. Does not know the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from ssd1b.base.units import latent_side
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.generate.engines import Conditioning
from ssd1b.generate.engines.torch import TorchAutoencoder, TorchDenoiser, compiled
from ssd1b.generate.model import Model
from ssd1b.generate.openvino.denoiser import OpenVINODenoiser
from ssd1b.models.encoders import load_text, load_vae, time_ids
from ssd1b.models.folder import load_unet
from ssd1b.plan.shape import shape_of

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor

    from ssd1b.generate.engines import Denoiser
    from ssd1b.models.encoders import TextStack
    from ssd1b.plan.shape import UNetShape

PROMPT = "a photograph of a lighthouse on a cliff at dusk, waves below, a few gulls in the wind"
_CPU, _F32 = torch.device("cpu"), torch.float32


class Runner(Protocol):
    """One engine holding one model; sizes are (width, height) in pixels."""

    def text(self, px: tuple[int, int]) -> None:
        """Encode one prompt, with both encoders."""
        ...

    def unet(self, px: tuple[int, int]) -> None:
        """Call the UNet once, for one row."""
        ...

    def decode(self, px: tuple[int, int]) -> None:
        """Decode one picture."""
        ...


class Torch:
    """Our torch engine; subclasses change how the UNet is prepared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shape = shape_of(read_json(folder / "unet" / "config.json"))

    @torch.inference_mode()
    def text(self, px: tuple[int, int]) -> None:
        """Encode one prompt."""
        self._text.encode([PROMPT])

    @torch.inference_mode()
    def unet(self, px: tuple[int, int]) -> None:
        """Call the UNet once."""
        call(self._denoiser, self.shape, px)

    @torch.inference_mode()
    def decode(self, px: tuple[int, int]) -> None:
        """Decode one picture."""
        self._vae.decode(latent_of(self.shape, px))

    def prepared(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        """The UNet as this engine wants it."""
        return unet

    @cached_property
    def _text(self) -> TextStack:
        return load_text(self.folder, device=_CPU, dtype=_F32)

    @cached_property
    def _denoiser(self) -> Denoiser:
        unet = load_unet(self.folder, device=_CPU, dtype=_F32).requires_grad_(False)
        return TorchDenoiser(self.prepared(unet))

    @cached_property
    def _vae(self) -> TorchAutoencoder:
        return TorchAutoencoder(load_vae(self.folder, device=_CPU, dtype=_F32))


class TorchCompiled(Torch):
    """With regional compilation."""

    def prepared(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        """The UNet with its transformer blocks compiled."""
        return compiled(unet)


class TorchChannelsLast(Torch):
    """With channels innermost."""

    def prepared(self, unet: UNet2DConditionModel) -> UNet2DConditionModel:
        """The UNet in that memory format."""
        unet.to(memory_format=torch.channels_last)
        return unet


class Exported:
    """Our OpenVINO engine on an export folder."""

    def __init__(self, folder: Path) -> None:
        from ssd1b.generate.openvino.load import read_export

        self.model: Model = read_export("bench", folder)

    def text(self, px: tuple[int, int]) -> None:
        """Encode one prompt, and make the keys and values of it, which the UNet's steps share."""
        denoiser = self.model.denoiser
        assert isinstance(denoiser, OpenVINODenoiser), "an export's UNet is OpenVINO's"
        denoiser.text.forget()
        denoiser.text.of(self.model.text.encode([PROMPT]).context_BTC)

    def unet(self, px: tuple[int, int]) -> None:
        """Call the UNet once, as at any step but the first."""
        call(self.model.denoiser, self.model.shape, px)

    def decode(self, px: tuple[int, int]) -> None:
        """Decode one picture."""
        self.model.vae.decode(latent_of(self.model.shape, px))


def call(denoiser: Denoiser, shape: UNetShape, px: tuple[int, int]) -> None:
    """One UNet call for one row of noise and text of the right shapes."""
    denoiser.predict_noise(latent_of(shape, px), torch.tensor([500]), conditioning(shape, px))


def latent_of(shape: UNetShape, px: tuple[int, int]) -> Tensor:
    """Noise in the place of a latent."""
    size = (1, shape.in_channels, latent_side(px[1]), latent_side(px[0]))
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def conditioning(shape: UNetShape, px: tuple[int, int]) -> Conditioning:
    """Noise in the place of text."""
    noise = torch.Generator().manual_seed(1)
    tokens = 77 if shape.cross_attention_dim >= 1024 else 24
    pooled = shape.projection_class_embeddings_input_dim - 6 * shape.addition_time_embed_dim
    return Conditioning(
        torch.randn((1, tokens, shape.cross_attention_dim), generator=noise),
        torch.randn((1, pooled), generator=noise),
        torch.tensor([time_ids((px[1], px[0]))], dtype=_F32),
    )


ENGINES: dict[str, Callable[[Path], Runner]] = {
    "torch": Torch,
    "torch-compile": TorchCompiled,
    "torch-channels-last": TorchChannelsLast,
    "openvino-fp16": Exported,
    "openvino-int8": Exported,
}
