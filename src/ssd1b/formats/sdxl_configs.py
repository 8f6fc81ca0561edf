"""The configs that a single-file SDXL checkpoint leaves out: published ones, sizes read from the weights.

Source of the constants: the config.json files of stabilityai/stable-diffusion-xl-base-1.0. Knows sizes of
tensors under diffusers' names, no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ssd1b.formats.unet_layout import HEAD_SIZE, Size

Config = dict[str, object]

MODEL_INDEX: Config = {
    "_class_name": "StableDiffusionXLPipeline",
    "_diffusers_version": "0.42.1",
    "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_SCHEDULER: Config = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}


def scheduler_config(names: Iterable[str]) -> Config:
    """SDXL's Euler scheduler; v-prediction where the file carries the empty marker tensors of that custom."""
    markers = {"v_pred", "ztsnr"} & set(names)
    config = dict(_SCHEDULER)
    if "v_pred" in markers:
        config["prediction_type"] = "v_prediction"
    if "ztsnr" in markers:
        config["rescale_betas_zero_snr"] = True
    return config


def vae_config(sizes: Mapping[str, Size]) -> Config:
    """The config of the AutoencoderKL that has these tensors."""
    levels = _count(sizes, r"encoder\.down_blocks\.(\d+)\.")
    channels = [sizes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)]
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": sizes["encoder.conv_in.weight"][1],
        "latent_channels": sizes["decoder.conv_in.weight"][1],
        "layers_per_block": _count(sizes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "norm_num_groups": 32,
        "out_channels": sizes["decoder.conv_out.weight"][0],
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def text_config(sizes: Mapping[str, Size]) -> Config:
    """The config of a CLIP text encoder; with a projection it is SDXL's second (OpenCLIP bigG).

    The end-of-text id 2 is what SDXL publishes: it makes transformers pool at the highest token id.
    """
    vocab_size, width = sizes["text_model.embeddings.token_embedding.weight"]
    projection = sizes.get("text_projection.weight")
    return {
        "architectures": ["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu" if projection else "quick_gelu",
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": sizes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": sizes["text_model.embeddings.position_embedding.weight"][0],
        "model_type": "clip_text_model",
        "num_attention_heads": max(1, width // HEAD_SIZE),
        "num_hidden_layers": _count(sizes, r"text_model\.encoder\.layers\.(\d+)\."),
        "pad_token_id": 1,
        "projection_dim": projection[0] if projection else width,
        "vocab_size": vocab_size,
    }


def _count(names: Iterable[str], pattern: str) -> int:
    return max((int(found[1]) for name in names if (found := re.match(pattern, name))), default=-1) + 1
