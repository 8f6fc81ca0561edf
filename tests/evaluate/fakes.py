"""A judge without a network and a model without a UNet: for tests of everything around them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tests.tiny import tiny_pipeline

from ssd1b.evaluate.judging import Examiner
from ssd1b.generate import load
from ssd1b.generate.engines.fake import FakeDenoiser
from ssd1b.generate.model import Model
from ssd1b.mini.reader import Reading, Seen
from ssd1b.mini.scenes import BACKGROUNDS, NOUNS, STYLES


@dataclass
class FakeJudge:
    """Sees something in every picture, by the hash of its pixels; counts the pictures it was shown."""

    accuracy: dict[str, float] = field(default_factory=lambda: {"object": 0.98, "background": 1.0})
    shown: list[int] = field(default_factory=list)

    def read(self, pictures: Sequence[np.ndarray]) -> list[Reading]:
        self.shown.append(len(pictures))
        assert len({picture.shape for picture in pictures}) == 1
        return [_seen(picture) for picture in pictures]


def _seen(picture: np.ndarray) -> Reading:
    digest = hashlib.sha256(picture.tobytes()).digest()
    thing = Seen(NOUNS[digest[0] % len(NOUNS)], STYLES[digest[1] % len(STYLES)], 0.9, digest[2] / 255, 0.5)
    return Reading((thing,), tuple(BACKGROUNDS)[digest[3] % len(BACKGROUNDS)])


def fake_examiner(mark: str = "fake") -> Examiner:
    return Examiner(FakeJudge(), mark)


def fake_model(folder: Path, plan: str = "tiny-ssd") -> Model:
    """A tiny pipeline whose UNet answers at once; two steps, no guidance unless asked."""
    if not (folder / "model_index.json").is_file():
        tiny_pipeline(folder, plan)
    model = load.load(str(folder), device="cpu", dtype="float32")
    defaults = dataclasses.replace(model.defaults, steps=2, guidance=1.0)
    return dataclasses.replace(model, denoiser=FakeDenoiser(), defaults=defaults)
