"""The scene reader: says what a picture of the mini world shows. The judge of every mini model.

A small convolutional network trained only on composed scenes (`mini.train.reader`), never on generated
pictures. It marks where each noun's centre is, in which style, and names the background. It does not know
prompts or scores.

Legend: B pictures, H W pixels, h w cells of 8 pixels, N nouns, S styles, G backgrounds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ssd1b.mini.scenes import BACKGROUNDS
from ssd1b.mini.sprites import NOUNS, STYLES

CELL_PX = 8
THRESHOLD = 0.3


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing found: `confidence` 0..1, its centre as shares of width and height."""

    noun: str
    style: str
    confidence: float
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What one picture shows; `things` by falling confidence, all above THRESHOLD."""

    things: tuple[Seen, ...]
    background: str

    @property
    def nouns(self) -> tuple[str, ...]:
        """The nouns found, surest first."""
        return tuple(thing.noun for thing in self.things)


class _Block(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        added_BCHW: Tensor = self.body(x_BCHW)
        return x_BCHW + added_BCHW


class ReaderNet(nn.Module):
    """Pictures in -1..1 to noun heatmaps and style maps (both at one eighth) and background logits."""

    def __init__(self) -> None:
        """Build the network, untrained."""
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in ((3, 24), (24, 48), (48, 96)):
            layers += [nn.Conv2d(i, o, 4, 2, 1), nn.GroupNorm(8, o), nn.SiLU()]
        self.trunk = nn.Sequential(*layers, *(_Block(96, dilation) for dilation in (1, 2, 1, 2, 1)))
        self.nouns = nn.Conv2d(96, len(NOUNS), 1)
        self.styles = nn.Conv2d(96, len(STYLES), 1)
        self.ground = nn.Linear(96, len(BACKGROUNDS))
        nn.init.constant_(self.nouns.bias, -4.0)  # type: ignore[arg-type]

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits BNhw, BShw and BG."""
        trunk_BChw = self.trunk(image_B3HW)
        return self.nouns(trunk_BChw), self.styles(trunk_BChw), self.ground(trunk_BChw.mean(dim=(2, 3)))


class Reader:
    """A trained ReaderNet and its measured accuracy on real scenes it never saw."""

    def __init__(self, net: ReaderNet, accuracy: dict[str, float]) -> None:
        """Wrap a trained network."""
        self.net, self.accuracy = net.eval(), accuracy

    def save(self, folder: Path) -> None:
        """Write weights (half precision) and accuracy, as `load` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        half = {name: value.half().contiguous() for name, value in self.net.state_dict().items()}
        save_file(half, folder / "reader.safetensors")
        (folder / "accuracy.json").write_text(json.dumps(self.accuracy, indent=1) + "\n")

    @torch.inference_mode()
    def read(self, pictures: Sequence[np.ndarray]) -> list[Reading]:
        """Read pictures of one size, uint8 HxWx3 each."""
        image_B3HW = torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).float() / 127.5 - 1
        noun_BNhw, style_BShw, ground_BG = self.net(image_B3HW)
        heat_BNhw = noun_BNhw.sigmoid()
        best_Bhw = heat_BNhw.amax(1, keepdim=True)
        peak_BNhw = (heat_BNhw == F.max_pool2d(best_Bhw, 5, 1, 2)) & (heat_BNhw > THRESHOLD)
        names = tuple(BACKGROUNDS)
        return [
            Reading(_things(heat_BNhw[b], peak_BNhw[b], style_BShw[b]), names[int(ground_BG[b].argmax())])
            for b in range(len(pictures))
        ]


def _things(heat_Nhw: Tensor, peak_Nhw: Tensor, style_Shw: Tensor) -> tuple[Seen, ...]:
    height, width = heat_Nhw.shape[1:]
    found = []
    for noun, row, column in peak_Nhw.nonzero().tolist():
        style = STYLES[int(style_Shw[:, row, column].argmax())]
        at = ((column + 0.5) / width, (row + 0.5) / height)
        found.append(Seen(NOUNS[noun], style, float(heat_Nhw[noun, row, column]), *at))
    return tuple(sorted(found, key=lambda seen: -seen.confidence))


@cache
def load() -> Reader:
    """The reader shipped in the package."""
    folder = files("ssd1b.mini") / "weights" / "reader"
    net = ReaderNet()
    with as_file(folder / "reader.safetensors") as path:
        net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return Reader(net, json.loads((folder / "accuracy.json").read_text()))
