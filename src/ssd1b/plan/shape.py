"""The shape of a UNet of the SDXL family: widths, depths, heads, read from and written as a diffusers config.

Names follow the diffusers state dict. A *block* is "down_blocks.1", "mid_block" or "up_blocks.0"; a *site* is
one attention stack in it, "down_blocks.1.attentions.0"; its depth is the number of transformer blocks. This
module does not know which teacher layers a student keeps, nor any weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ssd1b.base.errors import PlanError

MID = "mid_block"

# What makes a UNet SDXL's kind: a config that says otherwise is another architecture.
_FIXED: dict[str, object] = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "use_linear_projection": True,
}
_NEEDED = (
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "addition_embed_type",
    "use_linear_projection",
    "cross_attention_dim",
    "projection_class_embeddings_input_dim",
)
_ATTENDED = {
    "DownBlock2D": False,
    "CrossAttnDownBlock2D": True,
    "UpBlock2D": False,
    "CrossAttnUpBlock2D": True,
}
_MIDS = {None: (0, False), "UNetMidBlock2D": (1, False), "UNetMidBlock2DCrossAttn": (2, True)}


@dataclass(frozen=True, slots=True)
class UNetShape:
    """Everything that decides the tensors of an SDXL-family UNet.

    Attributes:
        channels: width of each resolution level, from the finest.
        layers_per_block: residual blocks per down block; an up block has one more.
        down_depths: per down block, the depth of each site; () where the block has no attention.
        mid_resnets: 2 (SDXL), 1 (SSD-1B, Vega) or 0 (no mid block).
        mid_depth: depth of the middle's site; None where it has no attention.
        up_depths: as `down_depths`, in running order (coarsest first).
        heads: attention heads per level.
        sample_size: native side in latents (128 for SDXL).
    """

    channels: tuple[int, ...]
    layers_per_block: int
    down_depths: tuple[tuple[int, ...], ...]
    mid_resnets: int
    mid_depth: int | None
    up_depths: tuple[tuple[int, ...], ...]
    heads: tuple[int, ...]
    cross_attention_dim: int = 2048
    addition_time_embed_dim: int = 256
    projection_class_embeddings_input_dim: int = 2816
    norm_num_groups: int = 32
    sample_size: int = 128
    in_channels: int = 4
    out_channels: int = 4

    @property
    def blocks(self) -> tuple[str, ...]:
        """Every block in running order; the middle only if there is one."""
        down = [f"down_blocks.{i}" for i in range(len(self.channels))]
        up = [f"up_blocks.{i}" for i in range(len(self.channels))]
        return (*down, *([MID] if self.mid_resnets else []), *up)

    @property
    def depths(self) -> dict[str, int]:
        """Every site with its depth, in running order."""
        return dict(self._sites())

    @property
    def transformer_blocks(self) -> int:
        """How many transformer blocks the UNet has in all (70 in SDXL)."""
        return sum(self.depths.values())

    def resnets(self, block: str) -> int:
        """Return how many residual blocks `block` has."""
        if block == MID:
            return self.mid_resnets
        return self.layers_per_block + block.startswith("up_")

    def level(self, block: str) -> int:
        """Return the index into `channels` and `heads` at which `block` works."""
        if block == MID:
            return len(self.channels) - 1
        index = int(block.rsplit(".", 1)[1])
        return index if block.startswith("down_") else len(self.channels) - 1 - index

    def config(self) -> dict[str, object]:
        """Return the config of diffusers' UNet2DConditionModel that has exactly this shape."""
        down, up = self._depth_fields()
        mid = next(name for name, (resnets, _) in _MIDS.items() if resnets == self.mid_resnets)
        return {
            "_class_name": "UNet2DConditionModel",
            **_FIXED,
            "addition_time_embed_dim": self.addition_time_embed_dim,
            "attention_head_dim": list(self.heads),
            "block_out_channels": list(self.channels),
            "cross_attention_dim": self.cross_attention_dim,
            "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in self.down_depths],
            "in_channels": self.in_channels,
            "layers_per_block": self.layers_per_block,
            "mid_block_type": mid,
            "norm_num_groups": self.norm_num_groups,
            "out_channels": self.out_channels,
            "projection_class_embeddings_input_dim": self.projection_class_embeddings_input_dim,
            "reverse_transformer_layers_per_block": up,
            "sample_size": self.sample_size,
            "transformer_layers_per_block": down,
            "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in self.up_depths],
        }

    def _sites(self) -> Iterator[tuple[str, int]]:
        for i, depths in enumerate(self.down_depths):
            yield from ((f"down_blocks.{i}.attentions.{j}", depth) for j, depth in enumerate(depths))
        if self.mid_depth is not None:
            yield f"{MID}.attentions.0", self.mid_depth
        for i, depths in enumerate(self.up_depths):
            yield from ((f"up_blocks.{i}.attentions.{j}", depth) for j, depth in enumerate(depths))

    def _depth_fields(self) -> tuple[list[int | list[int]], list[int | list[int]] | None]:
        """Return (transformer_layers_per_block, reverse_transformer_layers_per_block).

        The second is None where the up path mirrors the down path; diffusers insists on it as soon as the
        first holds a list (unet_2d_condition.py, `_check_config`).
        """
        down = [_compact(depths) for depths in self.down_depths]
        if self.mid_depth is not None and not self.down_depths[-1]:
            down[-1] = self.mid_depth
        up = [_compact(depths) for depths in self.up_depths]
        back = zip(self.up_depths, up, reversed(down), strict=True)
        mirrored = all(isinstance(own, int) and own == twin for depths, own, twin in back if depths)
        return down, None if mirrored and not any(isinstance(depth, list) for depth in down) else up


def shape_of(config: Mapping[str, object]) -> UNetShape:
    """Read the shape from the config.json of an SDXL-family UNet, as a mapping.

    Raises:
        PlanError: a field is missing, malformed, or makes it another architecture; the field is named.
    """
    _check_family(config)
    channels = _ints(config, "block_out_channels")
    levels = len(channels)
    per_block = _int_list(config, "layers_per_block", 2, levels)
    if len(set(per_block)) > 1:
        raise PlanError(_not_sdxl(f"'layers_per_block' differs from block to block: {list(per_block)}"))
    down_attended = _attended(config, "down_block_types", levels)
    up_attended = _attended(config, "up_block_types", levels)
    if down_attended != up_attended[::-1]:
        raise PlanError(_not_sdxl("'up_block_types' does not mirror 'down_block_types'"))
    down, mid, up = _depths(config, per_block[0], down_attended)
    mid_type = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    if mid_type not in _MIDS:
        raise PlanError(_not_sdxl(f"'mid_block_type' is {mid_type!r}"))
    mid_resnets, mid_attended = _MIDS[str(mid_type) if mid_type is not None else None]
    heads = "num_attention_heads" if config.get("num_attention_heads") is not None else "attention_head_dim"
    return UNetShape(
        channels=channels,
        layers_per_block=per_block[0],
        down_depths=down,
        mid_resnets=mid_resnets,
        mid_depth=mid if mid_attended else None,
        up_depths=up,
        heads=_int_list(config, heads, 8, levels),
        cross_attention_dim=_int(config, "cross_attention_dim", 2048),
        addition_time_embed_dim=_int(config, "addition_time_embed_dim", 256),
        projection_class_embeddings_input_dim=_int(config, "projection_class_embeddings_input_dim", 2816),
        norm_num_groups=_int(config, "norm_num_groups", 32),
        sample_size=_int(config, "sample_size", 128),
        in_channels=_int(config, "in_channels", 4),
        out_channels=_int(config, "out_channels", 4),
    )


def _check_family(config: Mapping[str, object]) -> None:
    for field in _NEEDED:
        if config.get(field) is None:
            raise PlanError(_not_sdxl(f"it has no '{field}'"))
    for field, value in _FIXED.items():
        if field in config and config[field] != value:
            raise PlanError(_not_sdxl(f"'{field}' is {config[field]!r} where SDXL has {value!r}"))


def _depths(
    config: Mapping[str, object], layers: int, attended: tuple[bool, ...]
) -> tuple[tuple[tuple[int, ...], ...], int, tuple[tuple[int, ...], ...]]:
    """Return the depths of (down sites, middle, up sites) as diffusers would build them."""
    field, reverse = "transformer_layers_per_block", "reverse_transformer_layers_per_block"
    given = config.get(field, 1)
    entries = list(given) if isinstance(given, Sequence) else [given] * len(attended)
    back = config.get(reverse)
    up_entries = list(back) if isinstance(back, Sequence) else entries[::-1]
    if len(entries) != len(attended) or len(up_entries) != len(attended):
        raise PlanError(_not_sdxl(f"'{field}' and '{reverse}' need one entry per block ({len(attended)})"))
    on_the_way = zip(entries, attended, strict=True)
    down = tuple(_sites(entry, layers, field) if has else () for entry, has in on_the_way)
    back_attended = zip(up_entries, attended[::-1], strict=True)
    up = tuple(_sites(entry, layers + 1, reverse) if has else () for entry, has in back_attended)
    return down, _sites(entries[-1], 1, field)[0], up


def _sites(entry: object, sites: int, field: str) -> tuple[int, ...]:
    if isinstance(entry, int):
        return (entry,) * sites
    if isinstance(entry, Sequence) and len(entry) >= sites and all(isinstance(depth, int) for depth in entry):
        return tuple(entry[:sites])
    raise PlanError(_not_sdxl(f"'{field}' has the entry {entry!r} where {sites} depths are needed"))


def _compact(depths: tuple[int, ...]) -> int | list[int]:
    if not depths:
        return 1
    return depths[0] if len(set(depths)) == 1 else list(depths)


def _attended(config: Mapping[str, object], field: str, levels: int) -> tuple[bool, ...]:
    types = config[field]
    if not isinstance(types, Sequence) or len(types) != levels:
        raise PlanError(_not_sdxl(f"'{field}' needs one entry per width in 'block_out_channels' ({levels})"))
    for one in types:
        if one not in _ATTENDED:
            raise PlanError(_not_sdxl(f"'{field}' holds {one!r}"))
    return tuple(_ATTENDED[one] for one in types)


def _int(config: Mapping[str, object], field: str, default: int) -> int:
    value = config.get(field, default)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise PlanError(_not_sdxl(f"'{field}' is {value!r}, not a whole number"))


def _ints(config: Mapping[str, object], field: str) -> tuple[int, ...]:
    value = config[field]
    if isinstance(value, Sequence) and value and all(isinstance(one, int) for one in value):
        return tuple(value)
    raise PlanError(_not_sdxl(f"'{field}' is {value!r}, not a list of whole numbers"))


def _int_list(config: Mapping[str, object], field: str, default: int, levels: int) -> tuple[int, ...]:
    value = config.get(field, default)
    if isinstance(value, int):
        return (value,) * levels
    numbers = _ints(config, field)
    if len(numbers) != levels:
        raise PlanError(_not_sdxl(f"'{field}' has {len(numbers)} entries for {levels} blocks"))
    return numbers


def _not_sdxl(why: str) -> str:
    return f"This is not the config of an SDXL-family UNet: {why}. Give an SDXL, SSD-1B, Vega or KOALA model."
