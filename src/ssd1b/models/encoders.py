"""Text into conditioning, pixels into latents and back, exactly as SDXL does it.

Knows the two CLIP encoders and the autoencoder of an SDXL-layout model; knows neither UNet, noise nor
training. Shapes: B pictures, T tokens, C channels, H and W rows and columns (latents: 1/8 of the pixels).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor

from ssd1b.models.folder import part_folder, weight_variant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

_Encoder = TypeVar("_Encoder", bound="CLIPTextModel | CLIPTextModelWithProjection")


@dataclass(frozen=True, slots=True)
class TextBatch:
    """What the UNet is told: `context_BTC` token by token (two encoders side by side), `pooled_BC` in all."""

    context_BTC: Tensor
    pooled_BC: Tensor

    def __len__(self) -> int:
        return int(self.context_BTC.shape[0])

    def zeros(self) -> TextBatch:
        """All-zero text of the same shapes: SDXL's "no negative prompt at all"."""
        return TextBatch(torch.zeros_like(self.context_BTC), torch.zeros_like(self.pooled_BC))

    def repeat(self, times: int) -> TextBatch:
        """Every row `times` times, copies side by side."""
        return TextBatch(
            self.context_BTC.repeat_interleave(times, dim=0), self.pooled_BC.repeat_interleave(times, dim=0)
        )


def joined(*batches: TextBatch) -> TextBatch:
    """The rows of several batches, one after the other."""
    return TextBatch(
        torch.cat([batch.context_BTC for batch in batches]), torch.cat([batch.pooled_BC for batch in batches])
    )


@dataclass(frozen=True, slots=True)
class TextStack:
    """SDXL's two tokenizers and two frozen CLIP encoders (the second one projects)."""

    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
    encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection]

    @property
    def max_tokens(self) -> int:
        """Tokens of one prompt, begin and end marks included (SDXL 77, the miniatures 24)."""
        return int(self.tokenizers[0].model_max_length)

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> TextBatch:
        """Encode prompts; what does not fit `max_tokens` is cut off (see `overflow`).

        The second to last hidden state of both encoders, and the projected text of the second one: the same
        numbers as `StableDiffusionXLPipeline.encode_prompt` of diffusers.
        """
        contexts = []
        pooled_BC: Tensor | None = None
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            ids_BT = tokenizer(
                list(prompts),
                padding="max_length",
                max_length=self.max_tokens,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            out = encoder(ids_BT.to(encoder.device), output_hidden_states=True)
            contexts.append(out.hidden_states[-2])
            pooled_BC = out[0]
        context_BTC = torch.cat(contexts, dim=-1).to(self.encoders[1].dtype)
        return TextBatch(context_BTC, cast("Tensor", pooled_BC))

    def overflow(self, prompt: str) -> str:
        """The end of the prompt that does not fit and is not seen by the model ("" when all of it fits)."""
        tokenizer = self.tokenizers[0]
        ids = tokenizer(prompt, verbose=False).input_ids
        if len(ids) <= self.max_tokens:
            return ""
        return str(tokenizer.decode(ids[self.max_tokens - 1 : -1])).strip()


def load_text(folder: Path, *, device: torch.device, dtype: torch.dtype) -> TextStack:
    """Read tokenizers and text encoders of a diffusers pipeline folder, frozen and in eval mode.

    Raises:
        MissingFileError: a part of the pipeline is not there.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    def tokenizer(name: str) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(part_folder(folder, name), local_files_only=True)

    def encoder(kind: type[_Encoder], name: str) -> _Encoder:
        part = part_folder(folder, name)
        with quiet_loading():
            model: _Encoder = kind.from_pretrained(
                part,
                dtype=dtype,
                variant=weight_variant(part, dtype),
                use_safetensors=True,
                local_files_only=True,
            )
        model.to(device).eval().requires_grad_(False)
        return model

    return TextStack(
        (tokenizer("tokenizer"), tokenizer("tokenizer_2")),
        (encoder(CLIPTextModel, "text_encoder"), encoder(CLIPTextModelWithProjection, "text_encoder_2")),
    )


def load_vae(folder: Path, *, device: torch.device, dtype: torch.dtype) -> AutoencoderKL:
    """Read the autoencoder of a diffusers pipeline folder, frozen and in eval mode."""
    from diffusers import AutoencoderKL

    part = part_folder(folder, "vae")
    vae = AutoencoderKL.from_pretrained(
        part,
        dtype=dtype,
        variant=weight_variant(part, dtype),
        use_safetensors=True,
        local_files_only=True,
    )
    return vae.to(device).eval().requires_grad_(False)


def time_ids(
    original: tuple[int, int], crop: tuple[int, int] = (0, 0), target: tuple[int, int] | None = None
) -> list[int]:
    """SDXL's six size numbers of one picture; each pair is (height, width) or (top, left), in pixels.

    Micro-conditioning of SDXL (arXiv:2307.01952, section 2.2). `target` defaults to `original`.
    """
    return [*original, *crop, *(target or original)]


@torch.inference_mode()
def encode_pixels(vae: AutoencoderKL, pixels_BCHW: Tensor, *, noise_BCHW: Tensor | None = None) -> Tensor:
    """Pixels in -1..1 to scaled latents (what the UNet sees).

    Without `noise_BCHW` (standard normal, latent shape) the mean of the posterior is taken, else one sample.
    """
    with _half_precision_safe(vae):
        posterior = vae.encode(pixels_BCHW.to(vae.device, vae.dtype)).latent_dist
    latent_BCHW = posterior.mean if noise_BCHW is None else posterior.mean + posterior.std * noise_BCHW
    return _normalised(vae, latent_BCHW)


@torch.inference_mode()
def decode_latents(vae: AutoencoderKL, latent_BCHW: Tensor) -> Tensor:
    """Scaled latents to pixels in 0..1, float32."""
    with _half_precision_safe(vae):
        plain_BCHW = _denormalised(vae, latent_BCHW.to(vae.device, vae.dtype))
        pixels_BCHW: Tensor = vae.decode(plain_BCHW, return_dict=False)[0]
    return (pixels_BCHW * 0.5 + 0.5).clamp(0, 1).float()


def _statistics(vae: AutoencoderKL, like_BCHW: Tensor) -> tuple[Tensor, Tensor] | None:
    """Per-channel mean and deviation of the latents, for the few autoencoders that state them."""
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return None
    return like_BCHW.new_tensor(mean).view(1, -1, 1, 1), like_BCHW.new_tensor(std).view(1, -1, 1, 1)


def _normalised(vae: AutoencoderKL, latent_BCHW: Tensor) -> Tensor:
    statistics = _statistics(vae, latent_BCHW)
    if statistics is None:
        return latent_BCHW * _scaling(vae)
    mean_1C11, std_1C11 = statistics
    return (latent_BCHW - mean_1C11) * _scaling(vae) / std_1C11


def _denormalised(vae: AutoencoderKL, latent_BCHW: Tensor) -> Tensor:
    statistics = _statistics(vae, latent_BCHW)
    if statistics is None:
        return latent_BCHW / _scaling(vae)
    mean_1C11, std_1C11 = statistics
    return latent_BCHW * std_1C11 / _scaling(vae) + mean_1C11


def _scaling(vae: AutoencoderKL) -> float:
    """The factor that brings latents to unit deviation (SDXL 0.13025); the autoencoder's config keeps it."""
    return float(vae.config.scaling_factor)


@contextmanager
def _half_precision_safe(vae: AutoencoderKL) -> Iterator[None]:
    """Run in float32 where the autoencoder says that float16 overflows (`force_upcast`), and go back."""
    upcast = vae.dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
    if upcast:
        torch.nn.Module.to(vae, dtype=torch.float32)
    try:
        yield
    finally:
        if upcast:
            torch.nn.Module.to(vae, dtype=torch.float16)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the loading bars of transformers: our own progress is the only one on the screen."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
