"""Every tensor of an SDXL-family UNet by name and shape, computed without building it.

The names and shapes are those of the state dict of diffusers' UNet2DConditionModel (0.42), in running order;
a test holds them against the real class. This module does not know what the tensors contain.
"""

from __future__ import annotations

from collections.abc import Iterator

from ssd1b.plan.shape import MID, UNetShape

Named = Iterator[tuple[str, tuple[int, ...]]]


def tensors(shape: UNetShape) -> dict[str, tuple[int, ...]]:
    """Return the name of every tensor of the state dict with its shape (1680 for SDXL)."""
    return dict(_all(shape))


def skips(shape: UNetShape) -> tuple[tuple[str, int], ...]:
    """Return what the up path concatenates, in the order it is stored: where from, and its channels."""
    stored = [("conv_in", shape.channels[0])]
    for block in _path(shape, "down_"):
        width = shape.channels[shape.level(block)]
        for index in range(shape.resnets(block)):
            kind = "attentions" if f"{block}.attentions.{index}" in shape.depths else "resnets"
            stored.append((f"{block}.{kind}.{index}", width))
        if shape.level(block) < len(shape.channels) - 1:
            stored.append((f"{block}.downsamplers.0", width))
    return tuple(stored)


def _all(shape: UNetShape) -> Named:
    first, time = shape.channels[0], 4 * shape.channels[0]
    yield from _layer("conv_in", first, shape.in_channels, 3, 3)
    yield from _layer("time_embedding.linear_1", time, first)
    yield from _layer("time_embedding.linear_2", time, time)
    yield from _layer("add_embedding.linear_1", time, shape.projection_class_embeddings_input_dim)
    yield from _layer("add_embedding.linear_2", time, time)
    stored = [width for _, width in skips(shape)]
    width = first
    for block in shape.blocks:
        out = shape.channels[shape.level(block)]
        for index in range(shape.resnets(block)):
            joined = stored.pop() if block.startswith("up_") else 0
            yield from _resnet(f"{block}.resnets.{index}", width + joined, out, time)
            width = out
            yield from _site(shape, f"{block}.attentions.{index}", out)
        yield from _sampler(shape, block, out)
    yield from _norm("conv_norm_out", first)
    yield from _layer("conv_out", shape.out_channels, first, 3, 3)


def _resnet(name: str, width: int, out: int, time: int) -> Named:
    yield from _norm(f"{name}.norm1", width)
    yield from _layer(f"{name}.conv1", out, width, 3, 3)
    yield from _layer(f"{name}.time_emb_proj", out, time)
    yield from _norm(f"{name}.norm2", out)
    yield from _layer(f"{name}.conv2", out, out, 3, 3)
    if width != out:
        yield from _layer(f"{name}.conv_shortcut", out, width, 1, 1)


def _site(shape: UNetShape, name: str, width: int) -> Named:
    depth = shape.depths.get(name)
    if depth is None:
        return
    yield from _norm(f"{name}.norm", width)
    yield from _layer(f"{name}.proj_in", width, width)
    for index in range(depth):
        yield from _transformer_block(f"{name}.transformer_blocks.{index}", width, shape.cross_attention_dim)
    yield from _layer(f"{name}.proj_out", width, width)


def _transformer_block(name: str, width: int, context: int) -> Named:
    for index, (attention, source) in enumerate((("attn1", width), ("attn2", context)), start=1):
        yield from _norm(f"{name}.norm{index}", width)
        yield f"{name}.{attention}.to_q.weight", (width, width)
        yield f"{name}.{attention}.to_k.weight", (width, source)
        yield f"{name}.{attention}.to_v.weight", (width, source)
        yield from _layer(f"{name}.{attention}.to_out.0", width, width)
    yield from _norm(f"{name}.norm3", width)
    yield from _layer(f"{name}.ff.net.0.proj", 8 * width, width)  # GEGLU: value and gate
    yield from _layer(f"{name}.ff.net.2", width, 4 * width)


def _sampler(shape: UNetShape, block: str, width: int) -> Named:
    level = shape.level(block)
    if block.startswith("down_") and level < len(shape.channels) - 1:
        yield from _layer(f"{block}.downsamplers.0.conv", width, width, 3, 3)
    if block.startswith("up_") and level > 0:
        yield from _layer(f"{block}.upsamplers.0.conv", width, width, 3, 3)


def _layer(name: str, *sizes: int) -> Named:
    yield f"{name}.weight", sizes
    yield f"{name}.bias", sizes[:1]


def _norm(name: str, width: int) -> Named:
    yield from _layer(name, width)


def _path(shape: UNetShape, prefix: str) -> list[str]:
    return [block for block in shape.blocks if block != MID and block.startswith(prefix)]
