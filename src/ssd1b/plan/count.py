"""What a UNet costs: parameters (exact), floating point operations of one forward pass, bytes of its weights.

Everything follows from the tensors of `plan.tensors`, in milliseconds and without torch. Operations are
counted as torch's FlopCounterMode counts them: two per multiply-add of convolutions, linear layers and the
two matrix products of attention; norms and activations are free. This module does not know how fast a
machine is.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from ssd1b.base.errors import PlanError, RequestError, did_you_mean
from ssd1b.base.units import VAE_SCALE, latent_side
from ssd1b.plan.shape import MID, UNetShape
from ssd1b.plan.tensors import tensors

TOKENS = 77
"""Text tokens per prompt (CLIP's context length)."""

_DTYPE_BYTES = {"float32": 4, "fp32": 4, "float16": 2, "fp16": 2, "bfloat16": 2, "bf16": 2, "int8": 1}


def parameters(shape: UNetShape) -> int:
    """Return how many parameters the UNet has, exactly."""
    return sum(map(prod, tensors(shape).values()))


def parts(shape: UNetShape) -> dict[str, int]:
    """Return the parameters of each block, in running order; "outside" is what belongs to no block."""
    totals = dict.fromkeys(shape.blocks, 0) | {"outside": 0}
    for name, sizes in tensors(shape).items():
        totals[_block_of(name)] += prod(sizes)
    return totals


def cells(shape: UNetShape) -> dict[str, int]:
    """Return the parameters of each residual block, transformer block, site shell and sampler.

    Keys are "down_blocks.1.resnets.0", "down_blocks.1.attentions.0.transformer_blocks.1",
    "down_blocks.1.attentions.0" (norm and projections only) and "down_blocks.1.downsamplers.0", and for
    what is outside the blocks the first word ("conv_in").
    """
    totals: dict[str, int] = {}
    for name, sizes in tensors(shape).items():
        cell = cell_of(name)
        totals[cell] = totals.get(cell, 0) + prod(sizes)
    return totals


def cell_of(name: str) -> str:
    """Return the cell (named as in `cells`) that a tensor of the state dict belongs to."""
    words = name.split(".")
    if "transformer_blocks" in words:
        return ".".join(words[: words.index("transformer_blocks") + 2])
    for kind in ("resnets", "attentions", "downsamplers", "upsamplers"):
        if kind in words:
            return ".".join(words[: words.index(kind) + 2])
    return words[0]


def flops(shape: UNetShape, height_px: int, width_px: int, tokens: int = TOKENS, batch: int = 1) -> int:
    """Return the floating point operations of one UNet call.

    Args:
        shape: the UNet.
        height_px: picture height in pixels, a multiple of 8.
        width_px: picture width in pixels, a multiple of 8.
        tokens: text tokens per prompt.
        batch: latents per call; guidance doubles it.

    Raises:
        RequestError: a side is not a positive multiple of 8.
    """
    places = _places(shape, height_px, width_px)
    total = 0
    for name, sizes in tensors(shape).items():
        if len(sizes) > 1:
            total += 2 * prod(sizes) * _uses(name, places, tokens)
    for site, depth in shape.depths.items():
        block = site.partition(".attentions")[0]
        width, seen = shape.channels[shape.level(block)], places[block]
        total += depth * 2 * 2 * width * seen * (seen + tokens)  # scores and values, self and cross
    return batch * total


def native_px(shape: UNetShape) -> int:
    """Return the side in pixels of the square picture the UNet is made for."""
    return shape.sample_size * VAE_SCALE


def memory(shape: UNetShape, dtype: str = "float16") -> int:
    """Return the bytes that the weights take in `dtype` (float32, float16, bfloat16 or int8).

    Raises:
        PlanError: the dtype is not known.
    """
    if dtype not in _DTYPE_BYTES:
        known = ", ".join(_DTYPE_BYTES)
        raise PlanError(
            f"No number format is called '{dtype}'.{did_you_mean(dtype, _DTYPE_BYTES)} Known: {known}."
        )
    return parameters(shape) * _DTYPE_BYTES[dtype]


def _places(shape: UNetShape, height_px: int, width_px: int) -> dict[str, int]:
    """Return how many latent positions each block works on; each level halves, rounding up."""
    try:
        height, width = latent_side(height_px), latent_side(width_px)
    except ValueError as error:
        raise RequestError(
            f"A picture of {width_px}x{height_px} px cannot be counted: both sides must be positive"
            f" multiples of {VAE_SCALE}."
        ) from error
    by_level = []
    for _ in shape.channels:
        by_level.append(height * width)
        height, width = (height + 1) // 2, (width + 1) // 2
    return {block: by_level[shape.level(block)] for block in shape.blocks} | {"outside": by_level[0]}


def _uses(name: str, places: Mapping[str, int], tokens: int) -> int:
    """Return at how many positions a weight is applied for one picture."""
    if "time_emb" in name or "add_embedding" in name:
        return 1
    if ".attn2.to_k." in name or ".attn2.to_v." in name:
        return tokens
    block = _block_of(name)
    if "samplers" in name:  # they already work at the next block's resolution
        path, index = block.split(".")
        return places[f"{path}.{int(index) + 1}"]
    return places[block]


def _block_of(name: str) -> str:
    if name.startswith(MID):
        return MID
    return ".".join(name.split(".")[:2]) if "_blocks." in name[:13] else "outside"
