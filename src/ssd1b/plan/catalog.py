"""The plans that have a name: SDXL, SSD-1B, Vega, KOALA and the miniatures.

One aligned table per teacher; depths after segmind's and ETRI's published configs. Where it was never
published which blocks were kept, `provenance` says what was chosen and why. This module does not know
files: plans that users write are read on a higher floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from ssd1b.base.errors import PlanError, did_you_mean
from ssd1b.plan.layers import LayerPlan, cut, whole
from ssd1b.plan.shape import MID, UNetShape

SDXL = UNetShape(
    channels=(320, 640, 1280),
    layers_per_block=2,
    down_depths=((), (2, 2), (10, 10)),
    mid_resnets=2,
    mid_depth=10,
    up_depths=((10, 10, 10), (2, 2, 2), ()),
    heads=(5, 10, 20),
)
MINI_SDXL = UNetShape(
    channels=(24, 48, 96),
    layers_per_block=2,
    down_depths=SDXL.down_depths,
    mid_resnets=2,
    mid_depth=10,
    up_depths=SDXL.up_depths,
    heads=(1, 2, 4),
    cross_attention_dim=192,
    addition_time_embed_dim=32,
    projection_class_embeddings_input_dim=128 + 6 * 32,  # pooled text + six time ids
    norm_num_groups=4,
    sample_size=16,
)

_FORENSIC = (0, 1, 2, 6)
_FIRST_1, _FIRST_2, _FIRST_4 = (0,), (0, 1), (0, 1, 2, 3)
_FIRST_5, _FIRST_6, _ALL_10 = tuple(range(5)), tuple(range(6)), tuple(range(10))
_MID_0 = {MID: (0,)}
_KOALA_LAYERS = {
    "down_blocks.0": (0,), "down_blocks.1": (0,), "down_blocks.2": (0,),
    "up_blocks.0": (0, 2), "up_blocks.1": (0, 2), "up_blocks.2": (0, 2),
}  # fmt: skip

# Rows: plan. Columns: blocks kept of the sites (ten-block, ten-block | ten, ten, ten | two, two, two).
# down_blocks.1 has two-block sites too; only Vega and KOALA touch them, through the last column.
_SITES = (
    "down_blocks.2.attentions.0", "down_blocks.2.attentions.1",
    "up_blocks.0.attentions.0", "up_blocks.0.attentions.1", "up_blocks.0.attentions.2",
    "up_blocks.1.attentions.0", "up_blocks.1.attentions.1", "up_blocks.1.attentions.2",
    "down_blocks.1.attentions.0", "down_blocks.1.attentions.1",
)  # fmt: skip
_SSD_TAIL = (_ALL_10, _FIRST_2, _FIRST_1, _FIRST_1, _FIRST_2, _FIRST_2)
_KEPT: dict[str, tuple[tuple[int, ...], ...]] = {
    "ssd-1b":       (_FORENSIC, _FORENSIC, _FORENSIC, _FORENSIC, *_SSD_TAIL),
    "ssd-1b-first": (_FIRST_4,  _FIRST_4,  _FIRST_4,  _FIRST_4,  *_SSD_TAIL),
    "vega":         (*(_FIRST_2,) * 5, *(_FIRST_1,) * 5),
}  # fmt: skip

_UNKNOWN = "The depths are the published config's; which SDXL block each was copied from was never published."
_SSD_REST = "Every residual block of the down and up path is kept; of the middle only the first."
_FORENSIC_WHY = (
    f"{_UNKNOWN} Ten-block sites that shrink to four keep blocks 0, 1, 2 and 6, two-block sites that shrink"
    " keep block 0: a third party's comparison of the released weights (furusu/laksjdjf, README of"
    " SSD-1B-anime) counts 1, 2, 3, 7 from one. An earlier revision said 1, 2, 3, 6, so the last index is"
    " not certain. The third site of up_blocks.0 still has ten blocks and is assumed to be unchanged."
    f" {_SSD_REST}"
)
_FIRST_WHY = (
    f"{_UNKNOWN} Here each site keeps its first blocks, as loading SDXL's weights with strict=False does."
    f" {_SSD_REST}"
)
_VEGA_WHY = (
    f"{_UNKNOWN} Its keys are a subset of SDXL's with equal shapes; here each site keeps its first blocks."
    f" {_SSD_REST}"
)
_KOALA_WHY = (
    f"{_UNKNOWN} The second pair of each down block and the middle pair of each up block go, which fits the"
    " widths of its tensors (up resnets.1 has those of SDXL's resnets.2); each site keeps its first blocks,"
    " in line with the authors' observation that the later blocks of a site differ little from one another."
)
_SDXL_WHY = "Published config of stabilityai/stable-diffusion-xl-base-1.0; nothing is removed."
_MIDDLE_WHY = (
    "Not a published model: the first stage of the recipe. Of the middle only the first residual block stays;"
    " everything else is SDXL's."
)
_MIDDLE_ABOUT = "SDXL without most of its middle"
_MINI_WHY = "The miniature of '{}': the same cut on a teacher of SDXL's topology with widths 24, 48, 96. "
_MINIS = {"mini-sdxl": "sdxl", "mini-ssd-mid": "sdxl-mid", "mini-ssd": "ssd-1b", "mini-vega": "vega"}


def _koala(name: str, depth: int, mid: tuple[int, ...], about: str) -> LayerPlan:
    """Return a KOALA plan: one layer less per block, `depth` blocks at each ten-block site."""
    layers = {**_KOALA_LAYERS, MID: mid}
    blocks = {"down_blocks.1": 2, "down_blocks.2": depth, "up_blocks.0": depth, "up_blocks.1": 2}
    kept = {
        f"{block}.attentions.{index}": tuple(range(blocks[block]))
        for block in blocks
        for index in layers[block]
    }
    if mid:
        kept[f"{MID}.attentions.0"] = tuple(range(depth))
    return cut(SDXL, name=name, kept=kept, resnets=layers, provenance=_KOALA_WHY, about=about)


def _table_row(name: str, why: str, about: str) -> LayerPlan:
    kept = dict(zip(_SITES, _KEPT[name], strict=True))
    return cut(SDXL, name=name, kept=kept, resnets=_MID_0, provenance=why, about=about)


@cache
def _catalog() -> Mapping[str, LayerPlan]:
    teacher = whole(SDXL, name="sdxl", provenance=_SDXL_WHY, about="Stable Diffusion XL base")
    full = {
        plan.name: plan
        for plan in (
            teacher,
            cut(SDXL, name="sdxl-mid", resnets=_MID_0, provenance=_MIDDLE_WHY, about=_MIDDLE_ABOUT),
            _table_row("ssd-1b", _FORENSIC_WHY, "Segmind SSD-1B, half of SDXL"),
            _table_row("ssd-1b-first", _FIRST_WHY, "SSD-1B of first blocks only"),
            _table_row("vega", _VEGA_WHY, "Segmind Vega, under a third"),
            _koala("koala-1b", 6, (0, 1), "ETRI KOALA-1B, fewer layers"),
            _koala("koala-700m", 5, (), "ETRI KOALA-700M, no middle"),
        )
    }
    return full | {mini: _miniature(full[twin], mini) for mini, twin in _MINIS.items()}


def _miniature(plan: LayerPlan, name: str) -> LayerPlan:
    """Return the same cut on the miniature teacher."""
    why, about = _MINI_WHY.format(plan.name) + plan.provenance, f"Miniature of {plan.name}"
    return replace(plan.on(MINI_SDXL, name=name), provenance=why, about=about)


NAMES: tuple[str, ...] = (
    "sdxl", "sdxl-mid", "ssd-1b", "ssd-1b-first", "vega", "koala-1b", "koala-700m",
    "mini-sdxl", "mini-ssd-mid", "mini-ssd", "mini-vega",
)  # fmt: skip
"""Every name that `find` knows, in the order in which they are listed."""


def find(name: str) -> LayerPlan:
    """Return the catalog plan called `name`.

    Raises:
        PlanError: there is none; the nearest name is suggested.
    """
    plans = _catalog()
    if name not in plans:
        raise PlanError(
            f"No layer plan is called '{name}'.{did_you_mean(name, NAMES)} `ssd1b plan list` shows them"
            " all; give a plan of your own as the path of its YAML file."
        )
    return plans[name]
