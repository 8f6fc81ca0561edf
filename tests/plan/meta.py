"""The outside judge of the plan room: diffusers' own UNet, built without memory on torch's meta device."""

from __future__ import annotations

from functools import cache

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from ssd1b.plan import catalog
from ssd1b.plan.layers import LayerPlan


def unet_of(plan: LayerPlan) -> UNet2DConditionModel:
    """The UNet that diffusers builds from a plan's config."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(plan.unet_config()).eval()


@cache
def unet(name: str) -> UNet2DConditionModel:
    """The UNet of a catalog plan."""
    return unet_of(catalog.find(name))


def state_shapes(model: UNet2DConditionModel) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, in state-dict order."""
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def counted_flops(model: UNet2DConditionModel, height: int, width: int, tokens: int, batch: int) -> int:
    """What torch's FlopCounterMode counts for one call on latents of `height` by `width`."""
    config = model.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    with torch.device("meta"):
        latent_BCHW = torch.empty(batch, config.in_channels, height, width)
        context_BTC = torch.empty(batch, tokens, config.cross_attention_dim)
        extra = {"text_embeds": torch.empty(batch, pooled), "time_ids": torch.empty(batch, 6)}
        step = torch.empty(batch, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(latent_BCHW, step, context_BTC, added_cond_kwargs=extra)
    return counter.get_total_flops()
