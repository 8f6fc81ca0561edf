"""A layer plan: which layers of a teacher UNet a student keeps, and all that follows from it.

The plan is the only description of a student. Its diffusers config, the map from student keys to teacher
keys and the pairs of sites that distillation compares are computed from it. Sites and blocks are named as
in `plan.shape`. This module does not know where the weights are, nor which plans exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from ssd1b.base.errors import PlanError
from ssd1b.plan.rules import check_buildable, check_indices, refuse_strangers, site_stays
from ssd1b.plan.shape import MID, UNetShape

_SHELL = ("norm", "proj_in", "proj_out")
_OUTSIDE_IN = ("conv_in", "time_embedding", "add_embedding")
_OUTSIDE_OUT = ("conv_norm_out", "conv_out")


@dataclass(frozen=True, slots=True)
class TapPair:
    """Two places whose outputs distillation compares, as modules of the student and of its teacher."""

    student_site: str
    teacher_site: str


@dataclass(frozen=True)
class LayerPlan:
    """Which teacher layers a student keeps, site by site.

    Attributes:
        name: what people call it.
        teacher: the shape of the UNet that is carved.
        kept: teacher site -> the indices of its transformer blocks that stay, ascending. Exactly the sites of
            kept residual blocks; an empty tuple keeps the site's norm and projections without any block.
        resnets: teacher block -> the indices of its residual blocks that stay; each takes its site along.
        provenance: how far the plan is known to be the published model's, in words.
        about: one line on what it is.

    Build plans with `whole` or `cut`, which fill in what is not mentioned.
    """

    name: str
    teacher: UNetShape
    kept: Mapping[str, tuple[int, ...]]
    resnets: Mapping[str, tuple[int, ...]]
    provenance: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        """Refuse a plan that diffusers could not build or whose tensors would not fit."""
        check_indices(self.name, self.teacher, self.kept, self.resnets)
        check_buildable(self.name, self.resnets, self.shape)

    @property
    def shape(self) -> UNetShape:
        """The student's shape."""
        down, up = self._depths("down_blocks"), self._depths("up_blocks")
        mid = self.kept.get(f"{MID}.attentions.0")
        return replace(
            self.teacher,
            layers_per_block=len(self.resnets["down_blocks.0"]),
            down_depths=down,
            mid_resnets=len(self.resnets.get(MID, ())),
            mid_depth=None if mid is None else len(mid),
            up_depths=up,
        )

    def unet_config(self) -> dict[str, object]:
        """Return the student's config for diffusers' UNet2DConditionModel."""
        return self.shape.config()

    def weight_map(self) -> dict[str, str]:
        """Return student key prefix -> the teacher key prefix its weights come from, in running order.

        No prefix is the beginning of another, so each tensor of the student falls under exactly one.
        """
        return dict(self._pairs)

    @cached_property
    def _pairs(self) -> Mapping[str, str]:
        pairs = {name: name for name in _OUTSIDE_IN}
        for block in self.teacher.blocks:
            for new, old in enumerate(self.resnets[block]):
                pairs[f"{block}.resnets.{new}"] = f"{block}.resnets.{old}"
                pairs |= self._site_map(f"{block}.attentions.{new}", f"{block}.attentions.{old}")
            pairs |= {sampler: sampler for sampler in _samplers(self.teacher, block)}
        return pairs | {name: name for name in _OUTSIDE_OUT}

    def teacher_key(self, student_key: str) -> str:
        """Return the teacher's state-dict key that `student_key` is copied from.

        Raises:
            PlanError: the key falls under no prefix of the student.
        """
        found = _translate(student_key, self._pairs)
        if found is None:
            raise PlanError(f"The student of plan '{self.name}' has no weight called '{student_key}'.")
        return found

    def student_key(self, teacher_key: str) -> str | None:
        """Return where a teacher's state-dict key goes in the student, or None where it is dropped."""
        return _translate(teacher_key, self._places)

    @cached_property
    def _places(self) -> Mapping[str, str]:
        return {old: new for new, old in self._pairs.items()}

    def tap_pairs(self, level: str = "sites") -> tuple[TapPair, ...]:
        """Return the pairs whose outputs layer-level distillation compares, in running order.

        Args:
            level: "sites": every kept residual block, every kept attention site, and the output of the whole
                mid block; 26 from SDXL to SSD-1B, the terms of the original script (segmind/SSD-1B commit
                3bf633b, distill_sdxl.py). "blocks": the output of each down, mid and up block (BK-SDM,
                arXiv:2305.15798). "self-attention": the self-attention of each kept transformer block
                (KOALA, arXiv:2312.04005). What the student has not is not compared.
        """
        if level == "blocks":
            return tuple(TapPair(block, block) for block in self.shape.blocks)
        if level == "self-attention":
            return tuple(
                TapPair(f"{new}.attn1", f"{old}.attn1")
                for new, old in self._pairs.items()
                if ".transformer_blocks." in new
            )
        return self._site_pairs()

    def _site_pairs(self) -> tuple[TapPair, ...]:
        pairs: list[TapPair] = []
        for block in self.shape.blocks:
            if block == MID:
                pairs.append(TapPair(MID, MID))
                continue
            for new, old in enumerate(self.resnets[block]):
                pairs.append(TapPair(f"{block}.resnets.{new}", f"{block}.resnets.{old}"))
                if f"{block}.attentions.{old}" in self.kept:
                    pairs.append(TapPair(f"{block}.attentions.{new}", f"{block}.attentions.{old}"))
        return tuple(pairs)

    def on(self, teacher: UNetShape, *, name: str | None = None) -> LayerPlan:
        """Return the same plan on a teacher of other widths.

        Raises:
            PlanError: that teacher has other blocks, sites or depths, so the indices would mean other layers.
        """
        if _topology(teacher) != _topology(self.teacher):
            raise PlanError(
                f"The plan '{self.name}' cannot be used on this teacher: its blocks, sites or depths differ"
                f" from those the plan is written for. It has {_sites_in_words(teacher)}; the plan expects"
                f" {_sites_in_words(self.teacher)}."
            )
        return replace(self, teacher=teacher, name=name or self.name)

    @property
    def keeps_everything(self) -> bool:
        """Whether the student is the teacher itself."""
        return self.shape == self.teacher

    def dropped(self) -> tuple[str, ...]:
        """Return the teacher key prefixes that the student does not take, in running order."""
        taken = set(self.weight_map().values())
        return tuple(prefix for prefix in whole(self.teacher).weight_map() if prefix not in taken)

    def _site_map(self, new: str, old: str) -> dict[str, str]:
        if old not in self.kept:
            return {}
        shell = {f"{new}.{part}": f"{old}.{part}" for part in _SHELL}
        inner_new, inner_old = f"{new}.transformer_blocks", f"{old}.transformer_blocks"
        return shell | {f"{inner_new}.{to}": f"{inner_old}.{at}" for to, at in enumerate(self.kept[old])}

    def _depths(self, path: str) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(
                len(self.kept[site])
                for old in self.resnets[block]
                if (site := f"{block}.attentions.{old}") in self.kept
            )
            for block in self.teacher.blocks
            if block.startswith(path)
        )


def whole(teacher: UNetShape, *, name: str = "whole", provenance: str = "", about: str = "") -> LayerPlan:
    """Return the plan that keeps everything of `teacher`."""
    return cut(teacher, name=name, provenance=provenance, about=about)


def cut(
    teacher: UNetShape,
    *,
    name: str,
    kept: Mapping[str, tuple[int, ...]] | None = None,
    resnets: Mapping[str, tuple[int, ...]] | None = None,
    provenance: str = "",
    about: str = "",
) -> LayerPlan:
    """Return the plan that keeps everything of `teacher` except what `kept` and `resnets` leave out.

    Args:
        teacher: the UNet that is carved.
        name: what the plan is called.
        kept: site -> block indices to keep, for the sites that lose some.
        resnets: block -> residual block indices to keep, for the blocks that lose some. A dropped residual
            block takes its site with it; in the mid block, (0,) drops the attention and the second residual
            block, () drops the whole block.
        provenance: how far the plan is known to be the published model's.
        about: one line on what it is.

    Raises:
        PlanError: a site or block does not exist, or no diffusers UNet can have this shape.
    """
    kept, resnets = kept or {}, resnets or {}
    refuse_strangers(name, "attention site", kept, teacher.depths)
    refuse_strangers(name, "block", resnets, teacher.blocks)
    stays = {block: tuple(resnets.get(block, range(teacher.resnets(block)))) for block in teacher.blocks}
    sites = {site: depth for site, depth in teacher.depths.items() if site_stays(site, stays)}
    for site in kept:
        if site not in sites:
            raise PlanError(
                f"The plan '{name}' keeps blocks of '{site}', but drops the residual block it belongs to."
                " Keep both or neither."
            )
    blocks = {site: tuple(kept.get(site, range(depth))) for site, depth in sites.items()}
    return LayerPlan(name, teacher, blocks, stays, provenance, about)


def _samplers(shape: UNetShape, block: str) -> tuple[str, ...]:
    """Return the down- or upsampler of `block`: every block but the last of each path has one."""
    last = f".{len(shape.channels) - 1}"
    if block == MID or block.endswith(last):
        return ()
    return (f"{block}.downsamplers.0",) if block.startswith("down_") else (f"{block}.upsamplers.0",)


def _translate(key: str, prefixes: Mapping[str, str]) -> str | None:
    """Replace the leading dotted part of `key` that is in `prefixes`; None where there is none."""
    parts = key.split(".")
    for count in range(len(parts), 0, -1):
        head = ".".join(parts[:count])
        if head in prefixes:
            return ".".join([prefixes[head], *parts[count:]])
    return None


def _topology(shape: UNetShape) -> tuple[object, ...]:
    return (shape.blocks, tuple(shape.resnets(block) for block in shape.blocks), tuple(shape.depths.items()))


def _sites_in_words(shape: UNetShape) -> str:
    return f"{len(shape.depths)} attention sites of depths {list(shape.depths.values())}"
