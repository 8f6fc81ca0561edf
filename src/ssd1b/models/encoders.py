"""Text into conditioning, pixels into latents and back, exactly as SDXL does it.

Knows the two CLIP encoders and the autoencoder of an SDXL-layout model; knows neither UNet, noise nor
training. Shapes: B pictures, T tokens, C channels, H and W rows and columns (latents: 1/8 of the pixels).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ssd1b.base.errors import LayoutError, MissingFileError
from ssd1b.models.folder import part_folder, weight_variant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffusers import AutoencoderKL, AutoencoderTiny
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


class TextEncoder(Protocol):
    """One CLIP text encoder, whatever runs it."""

    def hidden(self, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids to the second to last hidden state (B, T, C) and the pooled, projected text (B, C).

        An encoder without a projection gives its pooled hidden state, which SDXL does not use.
        """
        ...


@dataclass(frozen=True, slots=True)
class CLIPEncoder:
    """A `TextEncoder` around transformers' own class, frozen, on whatever device it lives."""

    model: CLIPTextModel | CLIPTextModelWithProjection

    def hidden(self, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Run the encoder once."""
        out = self.model(ids_BT.to(self.model.device), output_hidden_states=True)
        pooled_BC = out.text_embeds if "text_embeds" in out else out.pooler_output
        return out.hidden_states[-2], pooled_BC


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

    def rows(self, number: int) -> TextBatch:
        """The first so many rows or, below zero, the last ones."""
        which = slice(number) if number >= 0 else slice(number, None)
        return TextBatch(self.context_BTC[which], self.pooled_BC[which])

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
    encoders: tuple[TextEncoder, TextEncoder]

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
        ids_BT = [
            tokenizer(
                list(prompts),
                padding="max_length",
                max_length=self.max_tokens,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            for tokenizer in self.tokenizers
        ]
        return self.encode_ids((ids_BT[0], ids_BT[1]))

    @torch.inference_mode()
    def encode_ids(
        self, ids_BT: tuple[Tensor, Tensor], weights_BT: tuple[Tensor, Tensor] | None = None
    ) -> TextBatch:
        """Encode token ids, one (B, T) tensor for each encoder, with begin and end marks and padding.

        `weights_BT` multiply what the encoders say of each token, but not the pooled text.
        """
        (first_BTC, _), (second_BTC, pooled_BC) = (
            encoder.hidden(ids) for encoder, ids in zip(self.encoders, ids_BT, strict=True)
        )
        if weights_BT is not None:
            first_BTC = first_BTC * weights_BT[0][..., None].to(first_BTC)
            second_BTC = second_BTC * weights_BT[1][..., None].to(second_BTC)
        return TextBatch(torch.cat([first_BTC, second_BTC], dim=-1).to(second_BTC.dtype), pooled_BC)

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
    first, second = (
        load_clip(folder, part, device=device, dtype=dtype) for part in ("text_encoder", "text_encoder_2")
    )
    return TextStack(load_tokenizers(folder), (first, second))


def load_clip(folder: Path, name: str, *, device: torch.device, dtype: torch.dtype) -> CLIPEncoder:
    """Read one text encoder: "text_encoder", or "text_encoder_2", which projects."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if name == "text_encoder_2" else CLIPTextModel
    part = part_folder(folder, name)
    with quiet_loading():
        model = kind.from_pretrained(
            part,
            dtype=dtype,
            variant=weight_variant(part, dtype),
            use_safetensors=True,
            local_files_only=True,
        )
    return CLIPEncoder(model.to(device).eval().requires_grad_(False))


def load_tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Read the two tokenizers of a diffusers pipeline folder."""
    from transformers import CLIPTokenizer

    first, second = (
        CLIPTokenizer.from_pretrained(part_folder(folder, name), local_files_only=True)
        for name in ("tokenizer", "tokenizer_2")
    )
    return first, second


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


def load_tiny_vae(folder: Path, *, device: torch.device, dtype: torch.dtype) -> AutoencoderTiny:
    """Read an `AutoencoderTiny` (TAESD's layout) from its own folder of config.json and weights.

    Raises:
        MissingFileError: the folder or its weights are not there.
        LayoutError: it is another kind of autoencoder, or made for other latents.
    """
    from diffusers import AutoencoderTiny

    config = folder / "config.json"
    if not config.is_file():
        raise MissingFileError(f"There is no config.json in {folder}. Give the folder of an AutoencoderTiny.")
    told = json.loads(config.read_text())
    if told.get("_class_name") != "AutoencoderTiny" or told.get("latent_channels", 4) != 4:
        raise LayoutError(
            f"{folder} is a {told.get('_class_name')} for {told.get('latent_channels', 4)} channels; an"
            " AutoencoderTiny for SDXL's four is needed, such as madebyollin/taesdxl."
        )
    variant = weight_variant(folder, dtype)
    vae = AutoencoderTiny.from_pretrained(
        folder, dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True
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
    return normalised(vae.config, latent_BCHW)


@torch.inference_mode()
def decode_latents(vae: AutoencoderKL, latent_BCHW: Tensor) -> Tensor:
    """Scaled latents to pixels in 0..1, float32."""
    with _half_precision_safe(vae):
        plain_BCHW = denormalised(vae.config, latent_BCHW.to(vae.device, vae.dtype))
        pixels_BCHW: Tensor = vae.decode(plain_BCHW, return_dict=False)[0]
    return (pixels_BCHW * 0.5 + 0.5).clamp(0, 1).float()


def normalised(config: Mapping[str, Any], latent_BCHW: Tensor) -> Tensor:
    """Plain latents, as the autoencoder makes them, to the scaled ones that a UNet sees.

    `config` is the autoencoder's: the factor that brings latents to unit deviation (SDXL 0.13025) and, in a
    few of them, a mean and a deviation for each channel.
    """
    mean_1C11, factor_1C11 = _scale(config, latent_BCHW)
    return (latent_BCHW - mean_1C11) * factor_1C11


def denormalised(config: Mapping[str, Any], latent_BCHW: Tensor) -> Tensor:
    """Scaled latents back to plain ones."""
    mean_1C11, factor_1C11 = _scale(config, latent_BCHW)
    return latent_BCHW / factor_1C11 + mean_1C11


def _scale(config: Mapping[str, Any], like_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """What is taken off, and what the rest is multiplied by."""
    factor = float(config["scaling_factor"])
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return like_BCHW.new_zeros(()), like_BCHW.new_tensor(factor)
    std_1C11 = like_BCHW.new_tensor(std).view(1, -1, 1, 1)
    return like_BCHW.new_tensor(mean).view(1, -1, 1, 1), factor / std_1C11


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
