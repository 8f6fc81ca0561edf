"""Whether UNet weights fit the layout they claim, and which layout some weights have.

Names and sizes are those of the diffusers state dict. Knows no files, no layouts of other programs, no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ssd1b.base.errors import LayoutError, PlanError
from ssd1b.plan.catalog import NAMES, find
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.shape import MID, UNetShape
from ssd1b.plan.tensors import tensors as tensors_of

Size = tuple[int, ...]
HEAD_SIZE = 64  # of SDXL and every known student of it; weights do not tell it


def refuse_misfits(tensors: Mapping[str, Size], shape: UNetShape, where: str) -> None:
    """Raise LayoutError, naming the first misfits, unless `tensors` are those of a UNet of `shape`."""
    expected = tensors_of(shape)
    common = [name for name in expected if name in tensors]
    kinds = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in expected],
        "of another size": [f"{n} {tensors[n]}" for n in common if tensors[n] != expected[n]],
    }
    faults = [
        f"{len(names)} are {kind} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for kind, names in kinds.items()
        if names
    ]
    if faults:
        raise LayoutError(
            f"The UNet weights of {where} do not fit its config: of {len(expected)} tensors"
            f" {'; '.join(faults)}. Either weights and config are of two different models or the download is"
            " incomplete: fetch both again from one place."
        )


def layout_name(shape: UNetShape) -> str | None:
    """The catalog plan whose student has this shape, or failing that the same blocks at other widths."""
    plans = [find(name) for name in NAMES]
    same = next((plan.name for plan in plans if plan.shape == shape), None)
    return same or next((plan.name for plan in plans if _depths_of(plan.shape) == _depths_of(shape)), None)


def fitted(plan: LayerPlan, shape: UNetShape, where: str) -> LayerPlan:
    """The plan on a teacher of this shape.

    Raises:
        LayoutError: the teacher has other blocks than the plan is cut from; what it seems to be is said.
    """
    try:
        return plan.on(shape)
    except PlanError as error:
        found, wanted = layout_name(shape), layout_name(plan.teacher)
        has = f"the layout of '{found}'" if found else "a layout that has no name here"
        needs = f"'{wanted}'" if wanted else "another layout"
        raise LayoutError(
            f"{where} has {has}, and plan '{plan.name}' is cut from {needs}. Give a teacher of that layout"
            f" or a plan for this one. In detail: {error}"
        ) from error


def shape_from_tensors(tensors: Mapping[str, Size], *, pooled_dim: int, where: str) -> UNetShape:
    """The shape of the UNet that has these tensors, for files that carry no config.

    What weights do not tell is taken from SDXL: heads of 64, groups of 32, 128 latents a side. `pooled_dim`
    is the width of the pooled text, which tells the six time ids apart from it.

    Raises:
        LayoutError: the tensors are not those of an SDXL-family UNet.
    """
    levels = _count(tensors, r"down_blocks\.(\d+)\.")
    try:
        projected = tensors["add_embedding.linear_1.weight"][1]
        channels = tuple(tensors[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels))
        return UNetShape(
            channels=channels,
            layers_per_block=_count(tensors, r"down_blocks\.0\.resnets\.(\d+)\."),
            down_depths=tuple(_depths(tensors, f"down_blocks.{i}") for i in range(levels)),
            mid_resnets=_count(tensors, r"mid_block\.resnets\.(\d+)\."),
            mid_depth=next(iter(_depths(tensors, MID)), None),
            up_depths=tuple(_depths(tensors, f"up_blocks.{i}") for i in range(levels)),
            heads=tuple(max(1, width // HEAD_SIZE) for width in channels),
            cross_attention_dim=next(
                s[1] for name, s in tensors.items() if name.endswith("attn2.to_k.weight")
            ),
            addition_time_embed_dim=(projected - pooled_dim) // 6,
            projection_class_embeddings_input_dim=projected,
            in_channels=tensors["conv_in.weight"][1],
            out_channels=tensors["conv_out.weight"][0],
        )
    except (KeyError, StopIteration, IndexError) as error:
        lacks = f" (it has no {error})" if isinstance(error, KeyError) else ""
        raise LayoutError(
            f"{where} does not hold a UNet of the SDXL family{lacks}. Give an SDXL checkpoint."
        ) from error


def _depths_of(shape: UNetShape) -> tuple[object, ...]:
    return (shape.layers_per_block, shape.mid_resnets, tuple(shape.depths.items()))


def _count(names: Iterable[str], pattern: str) -> int:
    """One more than the highest index that `pattern` captures."""
    return max((int(found[1]) for name in names if (found := re.match(pattern, name))), default=-1) + 1


def _depths(names: Mapping[str, object], block: str) -> tuple[int, ...]:
    sites = _count(names, rf"{re.escape(block)}\.attentions\.(\d+)\.")
    pattern = rf"{re.escape(block)}\.attentions\.{{}}\.transformer_blocks\.(\d+)\."
    return tuple(_count(names, pattern.format(index)) for index in range(sites))
