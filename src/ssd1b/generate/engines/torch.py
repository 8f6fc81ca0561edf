"""UNet and autoencoder run by PyTorch, as diffusers defines them.

Does not know prompts, schedulers or pictures.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ssd1b.base.errors import RequestError
from ssd1b.base.files import cache_folder
from ssd1b.generate.engines import in_rows
from ssd1b.models.device import free_bytes
from ssd1b.models.encoders import decode_latents, encode_pixels

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from torch import Tensor

    from ssd1b.generate.engines import Conditioning

ROW_BYTES = 24
"""Bytes of activations that one row takes at its peak, per latent, channel of the topmost level and byte of a
number: a little above what SSD-1B was measured to take on a processor (docs/engines.md)."""

Answer = tuple["Tensor", ...]


@dataclass(frozen=True, slots=True)
class TorchDenoiser:
    """A `DeepDenoiser` around diffusers' `UNet2DConditionModel`.

    Attributes:
        unet: on its device.
        at_once: at most so many rows a call; None: as many as the device's free memory holds.
    """

    unet: UNet2DConditionModel
    at_once: int | None = None

    def predict_noise(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """Run the UNet once, on whatever device and dtype it lives in."""

        def call(rows: slice) -> Answer:
            return (self._whole(latent_BCHW[rows], step_B[rows], cond.rows(rows)),)

        return self._in_rows(latent_BCHW, call)[0]

    def predict_keeping(
        self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """Run the UNet once and listen in where its last block begins."""
        kept: list[Tensor] = []

        def listen(_: object, __: object, said: dict[str, Any]) -> None:
            kept.append(said["hidden_states"])

        def call(rows: slice) -> Answer:
            noise_BCHW = self._whole(latent_BCHW[rows], step_B[rows], cond.rows(rows))
            return noise_BCHW, kept.pop()

        hook = self.unet.up_blocks[-1].register_forward_pre_hook(listen, with_kwargs=True)
        try:
            noise_BCHW, deep_BCHW = self._in_rows(latent_BCHW, call)
        finally:
            hook.remove()
        return noise_BCHW, deep_BCHW

    def predict_from(
        self, deep_BCHW: Tensor, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning
    ) -> Tensor:
        """Run what is at full resolution: the first block up to its skips, and the last one."""

        def call(rows: slice) -> Answer:
            return (self._top(deep_BCHW[rows], latent_BCHW[rows], step_B[rows], cond.rows(rows)),)

        return self._in_rows(latent_BCHW, call)[0]

    def _whole(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        noise_BCHW: Tensor = self.unet(
            latent_BCHW,
            step_B,
            encoder_hidden_states=cond.context_BTC,
            timestep_cond=self._guidance_embedding(cond),
            added_cond_kwargs={"text_embeds": cond.pooled_BC, "time_ids": cond.time_ids_B6},
            return_dict=False,
        )[0]
        return noise_BCHW

    def _top(self, deep_BCHW: Tensor, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """The same calls in the same order as in `UNet2DConditionModel.forward`."""
        unet = self.unet
        time_BC = unet.get_time_embed(latent_BCHW, step_B)
        time_BC = unet.time_embedding(time_BC, self._guidance_embedding(cond))
        added = {"text_embeds": cond.pooled_BC, "time_ids": cond.time_ids_B6}
        time_BC = time_BC + unet.get_aug_embed(time_BC, cond.context_BTC, added)
        skips = [unet.conv_in(latent_BCHW)]
        for resnet in unet.down_blocks[0].resnets:
            skips.append(resnet(skips[-1], time_BC))
        hidden_BCHW = unet.up_blocks[-1](
            hidden_states=deep_BCHW, temb=time_BC, res_hidden_states_tuple=tuple(skips)
        )
        noise_BCHW: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden_BCHW)))
        return noise_BCHW

    def _in_rows(self, latent_BCHW: Tensor, call: Callable[[slice], Answer]) -> Answer:
        n_rows = latent_BCHW.shape[0]
        return in_rows(n_rows, self.at_once or rows_at_once(self.unet, latent_BCHW), call)

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

    def encode(self, pixels_BCHW: Tensor, noise_BCHW: Tensor | None = None) -> Tensor:
        """Pixels in -1..1 to scaled latents: the mean of the posterior or, with noise, a sample of it."""
        return encode_pixels(self.vae, pixels_BCHW, noise_BCHW=noise_BCHW)

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Scaled latents to pixels in 0..1, float32."""
        return decode_latents(self.vae, latent_BCHW)


@dataclass(frozen=True, slots=True)
class TinyAutoencoder:
    """An `Autoencoder` around diffusers' `AutoencoderTiny` (TAESD's layout): a seventeenth of the work."""

    vae: AutoencoderTiny

    @torch.inference_mode()
    def encode(self, pixels_BCHW: Tensor, noise_BCHW: Tensor | None = None) -> Tensor:
        """Pixels in -1..1 to scaled latents; it has no posterior, so noise changes nothing."""
        plain_BCHW = self.vae.encode(pixels_BCHW.to(self.vae.device, self.vae.dtype)).latents
        latent_BCHW: Tensor = plain_BCHW * self.vae.config.scaling_factor
        return latent_BCHW

    @torch.inference_mode()
    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Scaled latents to pixels in 0..1, float32."""
        plain_BCHW = latent_BCHW.to(self.vae.device, self.vae.dtype) / self.vae.config.scaling_factor
        pixels_BCHW: Tensor = self.vae.decode(plain_BCHW, return_dict=False)[0]
        return (pixels_BCHW * 0.5 + 0.5).clamp(0, 1).float()


def rows_at_once(unet: UNet2DConditionModel, latent_BCHW: Tensor) -> int:
    """How many rows fit into the free memory of the device beside each other: at least one, at most all.

    Half of what is free is left alone. Rows together are faster where one cannot keep the device busy.
    """
    n_rows, _, height, width = latent_BCHW.shape
    if n_rows == 1:
        return 1
    channels = int(unet.config.block_out_channels[0])
    row: int = ROW_BYTES * height * width * channels * latent_BCHW.element_size()
    return max(1, min(n_rows, free_bytes(latent_BCHW.device) // 2 // row))


def compiled(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Have the transformer blocks compiled, each kind once for all its copies (regional compilation).

    What the compiler makes is kept on disk and found again by the next process.

    Raises:
        RequestError: there is no C++ compiler, which torch needs on processors.
    """
    compiler = os.environ.get("CXX", "g++")
    if unet.device.type == "cpu" and not (shutil.which(compiler) or shutil.which("clang++")):
        raise RequestError(
            "--compile needs a C++ compiler, and neither g++ nor clang++ is there. Install one (Debian:"
            " apt-get install g++) or leave --compile out."
        )
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    unet.compile_repeated_blocks(fullgraph=True)
    return unet


def guidance_embedding(guidance_B: Tensor, n_channels: int) -> Tensor:
    """Sines and cosines of guidance - 1, (B, n_channels), as LCM takes it (arXiv:2310.04378)."""
    half = n_channels // 2
    rate_H = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angle_BH = ((guidance_B.float().cpu() - 1) * 1000)[:, None] * rate_H[None, :]
    wave_BC = torch.cat([torch.sin(angle_BH), torch.cos(angle_BH)], dim=1)
    return torch.nn.functional.pad(wave_BC, (0, 1)) if n_channels % 2 else wave_BC
