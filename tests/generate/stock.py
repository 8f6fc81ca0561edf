"""What stock diffusers makes of our requests: the judge of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline

from ssd1b.generate.request import Request


def stock_pipeline(folder: Path) -> StableDiffusionXLPipeline:
    """The stock pipeline of a folder, quiet."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def size_of(request: Request) -> dict[str, int]:
    """The size, for pipelines that do not take it from a picture."""
    return {"width": request.width, "height": request.height}


def stock_picture(pipeline: Any, request: Request, **more: object) -> Any:
    """What a pipeline makes of a request with the scheduler it has; `more` goes to its call."""
    return pipeline(
        request.prompt,
        negative_prompt=request.negative,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        **more,
    ).images[0]
