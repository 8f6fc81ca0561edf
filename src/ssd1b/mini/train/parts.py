"""The folder of parts that every mini model shares: tokenizers, scheduler and index."""

from __future__ import annotations

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from diffusers import EulerDiscreteScheduler

MODEL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": False,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def begin(folder: Path) -> None:
    """Make `folder` ready for a VAE and text encoders: tokenizers, SDXL's scheduler, the model index."""
    folder.mkdir(parents=True, exist_ok=True)
    with as_file(files("ssd1b.mini") / "weights" / "parts") as packed:
        for name in ("tokenizer", "tokenizer_2"):
            shutil.copytree(packed / name, folder / name, dirs_exist_ok=True)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        timestep_spacing="leading",
        steps_offset=1,
        prediction_type="epsilon",
    )
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
