"""Complete SDXL-layout pipelines with random weights, small enough for a test.

Two layouts are written down here, "tiny-sdxl" and "tiny-ssd" (the true depths of SDXL and SSD-1B at very
small widths); any other name is looked up in the plan catalog, so `plan="mini-ssd"` works too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

MAX_TOKENS = 24

_TINY_COMMON: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "attention_head_dim": [1, 2, 4],
    "cross_attention_dim": 48,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
    "norm_num_groups": 4,
}
_TINY_PLANS: dict[str, dict[str, Any]] = {
    "tiny-sdxl": {"transformer_layers_per_block": [1, 2, 10], "mid_block_type": "UNetMidBlock2DCrossAttn"},
    "tiny-ssd": {
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        "mid_block_type": "UNetMidBlock2D",
    },
}


def unet_config(plan: str) -> dict[str, Any]:
    """The diffusers config of a tiny layout, or of a plan of the catalog."""
    if plan in _TINY_PLANS:
        return {**_TINY_COMMON, **_TINY_PLANS[plan]}
    from ssd1b.plan.catalog import find

    return find(plan).unet_config()


def tiny_unet(plan: str = "tiny-ssd", seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """A UNet of the plan's layout with random weights, in eval mode; `changes` go into its config."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(**{**unet_config(plan), **changes}).eval()


def tiny_tokenizer(pad_token: str = "<|endoftext|>", max_tokens: int = MAX_TOKENS) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer without merges: one token a character, every text can be spelled."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], pad_token=pad_token, model_max_length=max_tokens)


def _text_config(tokenizer: CLIPTokenizer, width: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_vae() -> AutoencoderKL:
    """SDXL's autoencoder, eight times smaller pictures, very narrow."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8, 8, 8, 8],
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=128,
        scaling_factor=0.13025,
        force_upcast=True,
    ).eval()


def sdxl_scheduler() -> EulerDiscreteScheduler:
    """The scheduler as SDXL and SSD-1B publish it."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        steps_offset=1,
        timestep_spacing="leading",
    )


def tiny_stock(
    plan: str = "tiny-ssd", *, seed: int = 0, force_zeros: bool = True, **changes: Any
) -> StableDiffusionXLPipeline:
    """A stock diffusers pipeline, random weights, in memory; `changes` go into the UNet's config."""
    unet = tiny_unet(plan, seed, **changes)
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    first_width = unet.config.cross_attention_dim // 3
    tokenizer, tokenizer_2 = tiny_tokenizer(), tiny_tokenizer(pad_token="!")
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        pipeline = StableDiffusionXLPipeline(
            vae=tiny_vae(),
            text_encoder=CLIPTextModel(_text_config(tokenizer, first_width, pooled)).eval(),
            text_encoder_2=CLIPTextModelWithProjection(
                _text_config(tokenizer_2, unet.config.cross_attention_dim - first_width, pooled)
            ).eval(),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            scheduler=sdxl_scheduler(),
            force_zeros_for_empty_prompt=force_zeros,
            add_watermarker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_pipeline(
    folder: Path,
    plan: str = "tiny-ssd",
    *,
    seed: int = 0,
    force_zeros: bool = True,
    variant: str | None = None,
    max_shard_size: str | None = None,
    **changes: Any,
) -> Path:
    """Write a complete diffusers pipeline folder and return it; `variant="fp16"` writes half precision."""
    pipeline = tiny_stock(plan, seed=seed, force_zeros=force_zeros, **changes)
    if variant == "fp16":
        pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, variant=variant, max_shard_size=max_shard_size)
    return folder
