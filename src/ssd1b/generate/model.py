"""A loaded model: its parts, and what it is best asked for.

Does not know how it was loaded, nor how pictures are made with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssd1b.base.units import VAE_SCALE
from ssd1b.generate import prompt, schedulers

if TYPE_CHECKING:
    from pathlib import Path

    from ssd1b.generate.engines import Autoencoder, Denoiser
    from ssd1b.generate.prompt import Syntax
    from ssd1b.generate.request import Worn
    from ssd1b.models.device import Placement
    from ssd1b.models.encoders import TextBatch, TextStack
    from ssd1b.plan.shape import UNetShape

MINIATURE_BELOW = 64
"""A native side of fewer latents than this (512 px) is a miniature, not a model for photographs."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request asks for where the user says nothing; `source` says where the values come from."""

    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str
    source: str


@dataclass(slots=True)
class KnownText:
    """Prompts that were lately encoded: a negative prompt, or one prompt with many seeds, costs once."""

    most: int = 64
    _known: OrderedDict[tuple[str, Syntax], TextBatch] = field(default_factory=OrderedDict)

    def of(self, said: str, syntax: Syntax, text: TextStack) -> TextBatch:
        """The encoded prompt, one row (310 kB a part at full size in half precision)."""
        key = said, syntax
        if key not in self._known:
            self._known[key] = prompt.encoded(text, said, syntax)
        self._known.move_to_end(key)
        while len(self._known) > self.most:
            self._known.popitem(last=False)
        return self._known[key]


@dataclass(frozen=True, slots=True)
class Model:
    """Everything needed to make pictures.

    Attributes:
        name: as it was asked for.
        folder: the diffusers pipeline folder it was read from; None for a single file.
        denoiser: runs the UNet; `vae` and the encoders of `text` run on the same engine.
        engine: "torch", or "openvino fp16" and "openvino int8".
        scheduler_config: scheduler_config.json, as a mapping.
        zero_negative: whether "no negative prompt" means zeros (SDXL) instead of the empty text.
        takes_guidance: whether the UNet takes the guidance scale as an input (LCM), so that no second call
            is due.
        decoder: the name of a tiny autoencoder in the place of the model's own; "": its own.
        decoder_folder: where that was read from.
        known_text: what was lately encoded.
        adapters: the LoRA adapters that its weights wear.
    """

    name: str
    folder: Path | None
    denoiser: Denoiser
    vae: Autoencoder
    text: TextStack
    scheduler_config: Mapping[str, object]
    shape: UNetShape
    defaults: Defaults
    placement: Placement
    engine: str = "torch"
    zero_negative: bool = True
    takes_guidance: bool = False
    decoder: str = ""
    decoder_folder: Path | None = None
    known_text: KnownText = field(default_factory=KnownText)
    adapters: tuple[Worn, ...] = ()

    @property
    def can_reuse(self) -> bool:
        """Whether the topmost level of the UNet has no attention, so that it can run by itself."""
        top = ("down_blocks.0.", self.shape.blocks[-1] + ".")
        return not any(site.startswith(top) for site in self.shape.depths)

    @property
    def miniature(self) -> bool:
        """Whether this is one of the small models that draw scenes, not photographs."""
        return self.shape.sample_size < MINIATURE_BELOW


def defaults_of(
    shape: UNetShape,
    scheduler_config: Mapping[str, object],
    *,
    takes_guidance: bool = False,
    manifest: Mapping[str, object] | None = None,
) -> Defaults:
    """Choose defaults from the UNet's shape; what the manifest's "generate" entry says goes first.

    Sources: SSD-1B's model card (guidance 9, 25 to 50 steps) for the distilled layouts, diffusers'
        documentation for
    SDXL (guidance 5) and LCM (four steps), own measurements for the miniatures.
    """
    side_px = shape.sample_size * VAE_SCALE
    own = schedulers.own_name(scheduler_config)
    if takes_guidance:
        chosen = Defaults(side_px, side_px, 4, 8.0, "lcm", "a step-distilled (LCM) model")
    elif shape.sample_size < MINIATURE_BELOW:
        chosen = Defaults(side_px, side_px, 20, 3.0, own, "a miniature")
    elif shape.mid_depth is None:
        chosen = Defaults(side_px, side_px, 25, 9.0, own, "SSD-1B's model card")
    else:
        chosen = Defaults(side_px, side_px, 30, 5.0, own, "SDXL")
    said = (manifest or {}).get("generate")
    return _overridden(chosen, said) if isinstance(said, Mapping) else chosen


def _overridden(defaults: Defaults, said: Mapping[str, object]) -> Defaults:
    """Take what a manifest says, field by field, where it is a value of the right kind."""

    def number(key: str, otherwise: float) -> float:
        value = said.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else otherwise

    scheduler = said.get("scheduler")
    return Defaults(
        width=int(number("width", defaults.width)),
        height=int(number("height", defaults.height)),
        steps=int(number("steps", defaults.steps)),
        guidance=float(number("guidance", defaults.guidance)),
        scheduler=str(scheduler) if scheduler in schedulers.NAMES else defaults.scheduler,
        source="the model's manifest",
    )
