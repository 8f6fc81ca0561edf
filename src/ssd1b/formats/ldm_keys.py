"""The names that A1111, ComfyUI and the original LDM code give to tensors, against those of diffusers.

Each function takes the names of one model part and returns a dict `one name -> other name`; the two
directions of a pair are inverse to each other on any UNet of the SDXL family. Knows no files; joins and
transpositions, which only the second text encoder needs, are in `single_file`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

Names = dict[str, str]

# diffusers, LDM
_UNET_ENDS = (
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
)
_UNET_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_VAE_ENDS = (
    ("conv_norm_out", "norm_out"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"),
)
_VAE_ATTENTION = (
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
)
_OPEN_CLIP_LAYER = (
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
    ("self_attn.out_proj", "attn.out_proj"),
)
OPEN_CLIP_ENDS = (
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    ("text_model.final_layer_norm.weight", "ln_final.weight"),
    ("text_model.final_layer_norm.bias", "ln_final.bias"),
    ("text_projection.weight", "text_projection"),
)
OPEN_CLIP_LAYERS = ("text_model.encoder.layers", "transformer.resblocks")


def unet_to_ldm(names: Iterable[str]) -> Names:
    """Diffusers UNet names -> LDM names.

    LDM numbers the layers of all down blocks in one row, samplers counted, and likewise those of the up
    blocks.
    """
    known = list(names)
    row = _highest(known, r"down_blocks\.0\.resnets\.(\d+)\.") + 2  # layers of a block and its downsampler
    attended = {name.split(".")[1] for name in known if re.match(r"up_blocks\.\d+\.attentions\.", name)}

    def down(block: str, kind: str, layer: str) -> str:
        index = 1 + int(block) * row + (row - 1 if kind == "downsamplers" else int(layer))
        return f"input_blocks.{index}.{1 if kind == 'attentions' else 0}"

    def up(block: str, kind: str, layer: str) -> str:
        if kind == "upsamplers":
            return f"output_blocks.{int(block) * row + row - 1}.{2 if block in attended else 1}"
        return f"output_blocks.{int(block) * row + int(layer)}.{1 if kind == 'attentions' else 0}"

    return {name: _unet_name(name, down, up) for name in known}


def unet_from_ldm(names: Iterable[str]) -> Names:
    """LDM UNet names -> diffusers names; names that belong to no layer are left out."""
    known = list(names)
    samplers = sorted(int(m[1]) for n in known if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.weight", n)))
    row = samplers[0] if samplers else _highest(known, r"input_blocks\.(\d+)\.") + 1
    renamed: Names = {}
    for name in known:
        found = re.match(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name)
        if found is None or (found[2] == "0" and found[1] == "input"):
            diffusers = _swap(name, _UNET_ENDS, back=True)
            if diffusers is not None:
                renamed[name] = _inside_resnet(diffusers, back=True)
            continue
        path, index, place, rest = found[1], int(found[2]), found[3], found[4]
        block, layer = divmod(index - (path == "input"), row)
        head = f"{'down' if path == 'input' else 'up'}_blocks.{block}"
        if rest.startswith("op."):
            renamed[name] = f"{head}.downsamplers.0.conv.{rest.removeprefix('op.')}"
        elif rest.startswith("conv."):
            renamed[name] = f"{head}.upsamplers.0.{rest}"
        elif place == "1":
            renamed[name] = f"{head}.attentions.{layer}.{rest}"
        else:
            renamed[name] = _inside_resnet(f"{head}.resnets.{layer}.{rest}", back=True)
    return renamed


def vae_to_ldm(names: Iterable[str]) -> Names:
    """Diffusers VAE names -> LDM names; LDM counts the decoder's up blocks from the finest."""
    known = [_modern(name) for name in names]
    levels = _highest(known, r"decoder\.up_blocks\.(\d+)\.") + 1
    renamed = {}
    for given, name in zip(names, known, strict=True):
        side, dot, rest = name.partition(".")
        if found := re.match(
            r"(down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(?:down|up)samplers\.0)\.(.+)", rest
        ):
            level = int(found[2]) if found[1] == "down" else levels - 1 - int(found[2])
            inner = f"block.{found[3]}" if found[3] else f"{found[1]}sample"
            rest = f"{found[1]}.{level}.{inner}.{found[4]}"
        else:
            rest = _swap(rest, _VAE_ENDS) or rest
        if ".attn_1." in f".{rest}":
            head, _, tail = rest.partition("attn_1.")
            rest = f"{head}attn_1.{_swap(tail, _VAE_ATTENTION) or tail}"
        renamed[given] = f"{side}{dot}{rest.replace('conv_shortcut', 'nin_shortcut')}"
    return renamed


def vae_from_ldm(names: Iterable[str]) -> Names:
    """LDM VAE names -> diffusers names; training leftovers (loss, EMA) are left out."""
    known = list(names)
    levels = _highest(known, r"decoder\.up\.(\d+)\.") + 1
    renamed = {}
    for name in known:
        side, dot, rest = name.partition(".")
        if side not in ("encoder", "decoder", "quant_conv", "post_quant_conv"):
            continue
        if found := re.match(r"(down|up)\.(\d+)\.(?:block\.(\d+)|(?:down|up)sample)\.(.+)", rest):
            block = int(found[2]) if found[1] == "down" else levels - 1 - int(found[2])
            inner = f"resnets.{found[3]}" if found[3] else f"{found[1]}samplers.0"
            rest = f"{found[1]}_blocks.{block}.{inner}.{found[4]}"
        else:
            rest = _swap(rest, _VAE_ENDS, back=True) or rest
        if ".attentions.0." in f".{rest}":
            head, _, tail = rest.partition("attentions.0.")
            rest = f"{head}attentions.0.{_swap(tail, _VAE_ATTENTION, back=True) or tail}"
        renamed[name] = f"{side}{dot}{rest.replace('nin_shortcut', 'conv_shortcut')}"
    return renamed


def open_clip_layer(name: str, *, back: bool = False) -> str | None:
    """The name inside a text encoder's layer: transformers' -> OpenCLIP's; `back` the other way."""
    return _swap(name, _OPEN_CLIP_LAYER, back=back)


def _unet_name(name: str, down: Callable[[str, str, str], str], up: Callable[[str, str, str], str]) -> str:
    if found := re.match(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name
    ):
        path, block, kind, layer, rest = found.groups()
        head = (down if path == "down" else up)(block, kind, layer)
        if kind == "downsamplers":
            return f"{head}.op.{rest.removeprefix('conv.')}"
        return f"{head}.{_swap(rest, _UNET_RESNET) or rest}" if kind == "resnets" else f"{head}.{rest}"
    renamed = _swap(name, _UNET_ENDS) or name
    return _inside_resnet(renamed) if name.startswith("mid_block.resnets.") else renamed


def _inside_resnet(name: str, *, back: bool = False) -> str:
    """Rename the last part of a residual block's tensor; other names pass unchanged."""
    found = re.match(r"(.*?resnets\.\d+|middle_block\.[02])\.(.+)", name)
    return f"{found[1]}.{_swap(found[2], _UNET_RESNET, back=back) or found[2]}" if found else name


def _swap(name: str, table: tuple[tuple[str, str], ...], *, back: bool = False) -> str | None:
    """Replace the leading dotted part of `name` by its partner in `table`, or None where it has none."""
    for pair in table:
        old, new = pair[::-1] if back else pair
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return None


def _modern(name: str) -> str:
    """The attention of older diffusers VAEs (query, key, value, proj_attn) under today's names."""
    for old, new in (
        (".query.", ".to_q."),
        (".key.", ".to_k."),
        (".value.", ".to_v."),
        (".proj_attn.", ".to_out.0."),
    ):
        name = name.replace(old, new)
    return name


def _highest(names: Iterable[str], pattern: str) -> int:
    return max((int(found[1]) for name in names if (found := re.match(pattern, name))), default=-1)
