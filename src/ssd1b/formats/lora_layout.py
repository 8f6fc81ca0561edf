"""Where the layers of a LoRA file go in one UNet: by their own names, or through the plan it was cut by.

A student's blocks are numbered anew, so a LoRA made for its teacher names other layers than the student has
under these names; the plan says which became which, and which were lost. Does not know tensors, only sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from ssd1b.base.errors import LayoutError
from ssd1b.formats.ldm_keys import unet_to_ldm
from ssd1b.formats.lora_file import UNET, Factors, LoraFile
from ssd1b.formats.unet_layout import layout_name
from ssd1b.plan.catalog import find
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.shape import UNetShape
from ssd1b.plan.tensors import tensors

Size = tuple[int, ...]

MIN_KNOWN = 0.5
"""Of a file's UNet layers at least this share must be layers of the model or of its teacher."""
MIN_PLACED = 0.1
"""And at least this share must have a place in the model: less is not the adapter that was made. SDXL's
attention layers on Vega, the smallest student that is known, are 15 of 70 transformer blocks (0.21)."""

LOST, UNKNOWN, OTHER_SIZE = "belong to layers that the model lost", "are not known", "are of another size"


@dataclass(frozen=True, slots=True)
class Fit:
    """Where a file's layers go.

    Attributes:
        made_for: the layout whose names the file has, "" where that has no name.
        remapped: whether the layers were sent through the plan.
        placed: module of the model -> layer of the file.
        dropped: layer of the file -> why it has no place.
    """

    made_for: str
    remapped: bool = False
    placed: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_layers(self) -> int:
        """Of the file, for this part."""
        return len(self.placed) + len(self.dropped)

    def in_words(self, model: str) -> str:
        """For example "made for sdxl: 312 of 722 layers go to those of ssd-1b; 410 belong to ..."."""
        made_for = f"made for {self.made_for}: " if self.made_for else ""
        how = "go to the layers they became in" if self.remapped else "go to those of"
        said = f"{made_for}{len(self.placed)} of {self.n_layers} UNet layers {how} {model}"
        reasons = Counter(self.dropped.values()).items()
        return "; ".join([said, *(f"{count} {why} and are dropped" for why, count in reasons)])


def plan_of(shape: UNetShape) -> LayerPlan | None:
    """The catalog's plan that cuts a UNet of this shape, on a teacher of its widths; else None."""
    name = layout_name(shape)
    if name is None:
        return None
    plan = find(name)
    teacher = plan.teacher
    return plan.on(
        replace(
            shape,
            layers_per_block=teacher.layers_per_block,
            down_depths=teacher.down_depths,
            mid_resnets=teacher.mid_resnets,
            mid_depth=teacher.mid_depth,
            up_depths=teacher.up_depths,
        )
    )


def fit_unet(lora: LoraFile, shape: UNetShape) -> Fit:
    """Decide whose names a file has, and where its UNet layers go.

    The model's own, if every layer's name and size is among them; else those of its teacher, if more of them
    are. A file that changes only layers that both have under one name cannot be told apart, and is taken to
    be the model's own.
    """
    layers, plan = lora.parts[UNET], plan_of(shape)
    own = places(layers, _modules(shape))
    if plan is None or plan.keeps_everything or not own.dropped:
        return replace(own, made_for=plan.name if plan else "")
    teacher = places(layers, _modules(plan.teacher))
    if len(own.placed) >= len(teacher.placed):
        return replace(own, made_for=plan.name)
    return _remapped(layers, teacher, plan)


def refuse_strangers(lora: LoraFile, fit: Fit, model: str) -> None:
    """Refuse a file that was made for another kind of model, or of which too little is left.

    Raises:
        LayoutError: fewer layers fit than `MIN_KNOWN` and `MIN_PLACED` ask for.
    """
    known = sum(why == LOST for why in fit.dropped.values()) + len(fit.placed)
    if known < MIN_KNOWN * fit.n_layers:
        example = next((layer for layer, why in fit.dropped.items() if why != LOST), "")
        raise LayoutError(
            f"{lora.path} was not made for {model}, nor for the model it was cut from: of its {fit.n_layers}"
            f" UNet layers {known} fit by name and size ({example} does not). Use a LoRA made for SDXL or for"
            " this model."
        )
    if len(fit.placed) < MIN_PLACED * fit.n_layers:
        raise LayoutError(
            f"{lora.path} cannot be used with {model}: {fit.in_words(model)}. Less than a share of"
            f" {MIN_PLACED:g} would be left. Use a LoRA made for this model."
        )


def places(layers: Mapping[str, Factors], modules: Mapping[str, tuple[str, Size]]) -> Fit:
    """Match layers by name and size; `modules`: a layer's flat name -> module and size of its weight."""
    placed, dropped = {}, {}
    for layer, factors in layers.items():
        if layer not in modules:
            dropped[layer] = UNKNOWN
        elif not factors.fits(modules[layer][1]):
            dropped[layer] = OTHER_SIZE
        else:
            placed[modules[layer][0]] = layer
    return Fit("", placed=placed, dropped=dropped)


@cache
def _modules(shape: UNetShape) -> dict[str, tuple[str, Size]]:
    """Every layer with a matrix or convolution, by its flat name in diffusers and in LDM."""
    sizes = {
        name: size for name, size in tensors(shape).items() if name.endswith(".weight") and len(size) > 1
    }
    other = unet_to_ldm(tensors(shape))
    named = {}
    for name, size in sizes.items():
        module = name.removesuffix(".weight")
        for alias in (name, other[name]):
            named[alias.removesuffix(".weight").replace(".", "_")] = (module, size)
    return named


def _remapped(layers: Mapping[str, Factors], teacher: Fit, plan: LayerPlan) -> Fit:
    """What goes where once the teacher's modules are called as the student calls them."""
    sizes = tensors(plan.shape)
    placed, dropped = {}, dict(teacher.dropped)
    for module, layer in teacher.placed.items():
        key = plan.student_key(f"{module}.weight")
        if key is None:
            dropped[layer] = LOST
        elif not layers[layer].fits(sizes[key]):
            dropped[layer] = OTHER_SIZE
        else:
            placed[key.removesuffix(".weight")] = layer
    made_for = layout_name(plan.teacher) or "its teacher"
    return Fit(made_for, True, placed, dropped)
