"""Train the scene reader on composed scenes only, and measure how well it reads scenes it never saw."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssd1b.base.seeds import seed_of
from ssd1b.mini.reader import CELL_PX, Reader, ReaderNet, Reading
from ssd1b.mini.scenes import BACKGROUNDS, BUCKETS, Scene, any_scene, draw
from ssd1b.mini.sprites import NOUNS, STYLES
from ssd1b.mini.train.loop import Parts, Schedule, fit

TRAINING_SEED, HELD_OUT_SEED = 5, 6


def worsened(image_B3HW: Tensor, seed: int) -> Tensor:
    """The pictures as a decoder might return them: softer, noisier, a little off in colour."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    if rng.random() < 0.6:
        small = F.interpolate(image_B3HW, scale_factor=rng.uniform(0.35, 0.8), mode="area")
        image_B3HW = F.interpolate(small, size=image_B3HW.shape[-2:], mode="bilinear")
    noise = torch.randn(image_B3HW.shape, generator=generator) * rng.uniform(0.0, 0.12)
    tint = 1 + 0.08 * torch.randn(image_B3HW.shape[0], 3, 1, 1, generator=generator)
    return (image_B3HW * tint + noise).clamp(-1, 1)


def heatmap(scenes: Sequence[Scene]) -> Tensor:
    """Targets BNhw: a small bump of height one at the centre of each thing."""
    height, width = scenes[0].height_px // CELL_PX, scenes[0].width_px // CELL_PX
    target_BNhw = torch.zeros(len(scenes), len(NOUNS), height, width)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    for b, scene in enumerate(scenes):
        for thing in scene.things:
            row, column = centre_cell(thing.y_px, height), centre_cell(thing.x_px, width)
            bump = torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 2.0)
            plane = target_BNhw[b, NOUNS.index(thing.noun)]
            torch.maximum(plane, bump, out=plane)
    return target_BNhw


def centre_cell(at_px: int, cells: int) -> int:
    """The cell a pixel lies in."""
    return min(at_px // CELL_PX, cells - 1)


def reader_parts(net: ReaderNet, image_B3HW: Tensor, scenes: Sequence[Scene]) -> Parts:
    """Focal heatmap loss (CornerNet, arXiv:1808.01244, eq. 1), style at centres, background of the whole."""
    noun_BNhw, style_BShw, ground_BG = net(image_B3HW)
    target = heatmap(scenes)
    heat = noun_BNhw.sigmoid().clamp(1e-5, 1 - 1e-5)
    hit = (target == 1).float() * (1 - heat) ** 2 * heat.log()
    miss = (target < 1).float() * (1 - target) ** 4 * heat**2 * (1 - heat).log()
    n_things = sum(len(scene.things) for scene in scenes)
    at = [
        (
            b,
            centre_cell(t.y_px, style_BShw.shape[2]),
            centre_cell(t.x_px, style_BShw.shape[3]),
            STYLES.index(t.style),
        )
        for b, scene in enumerate(scenes)
        for t in scene.things
    ]
    b, row, column, style = (torch.tensor(values) for values in zip(*at, strict=True))
    grounds = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
    parts = {
        "heat": -(hit + miss).sum() / n_things,
        "style": F.cross_entropy(style_BShw[b, :, row, column], style),
        "ground": F.cross_entropy(ground_BG, grounds),
    }
    return {**parts, "loss": parts["heat"] + 0.3 * parts["style"] + 0.3 * parts["ground"]}


def train(folder: Path, steps: int = 1500, batch: int = 24, seed: int = 5) -> Reader:
    """Train (or resume) the reader and measure it."""
    torch.manual_seed(seed)
    net = ReaderNet()

    def loss_at(step: int) -> Parts:
        bucket = BUCKETS[step % len(BUCKETS)] if step % 2 else BUCKETS[0]
        scenes = [any_scene(TRAINING_SEED, step * batch + n, bucket) for n in range(batch)]
        image = (
            torch.from_numpy(np.stack([draw(scene) for scene in scenes])).permute(0, 3, 1, 2).float() / 127.5
            - 1
        )
        return reader_parts(net, worsened(image, seed_of(seed, "worsen", step)), scenes)

    fit("reader", net, loss_at, Schedule(steps, 2e-3), folder)
    return Reader(net, accuracy(Reader(net, {})))


def held_out(count: int = 900) -> Iterator[list[Scene]]:
    """Scenes of the reader's own held-out split, by bucket."""
    each = count // len(BUCKETS)
    for number, bucket in enumerate(BUCKETS):
        yield [any_scene(HELD_OUT_SEED, number * each + n, bucket) for n in range(each)]


def accuracy(reader: Reader) -> dict[str, float]:
    """Shares of held-out real scenes whose nouns, style and background are read right, places within 10 %."""
    rows: list[tuple[bool, bool, bool, bool]] = []
    for scenes in held_out():
        rows += [
            judge(scene, reading)
            for scene, reading in zip(scenes, reader.read([draw(s) for s in scenes]), strict=True)
        ]
    shares = np.array(rows).mean(axis=0)
    names = ("object", "style", "background", "position")
    return {
        **{name: round(float(share), 4) for name, share in zip(names, shares, strict=True)},
        "scenes": float(len(rows)),
    }


def judge(scene: Scene, reading: Reading) -> tuple[bool, bool, bool, bool]:
    """Whether objects, style, background and positions of one scene were read right."""
    true = {thing.noun: thing for thing in scene.things}
    objects = set(reading.nouns) == set(true)
    near = objects and all(
        abs(seen.x - true[seen.noun].x_px / scene.width_px) < 0.1
        and abs(seen.y - true[seen.noun].y_px / scene.height_px) < 0.1
        for seen in reading.things
    )
    style = bool(reading.things) and all(seen.style == scene.style for seen in reading.things)
    return objects, style, reading.background == scene.background, near
