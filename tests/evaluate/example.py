"""A comparison that nobody measured: true scenes as pictures, plausible figures."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence

from PIL import Image, ImageFilter

from ssd1b.evaluate.ablation import Ablation, Arm
from ssd1b.evaluate.comparison import Comparison, Drawing, Entry, Picture, Shot, Size, Speed
from ssd1b.evaluate.losses import Curves, of_lines
from ssd1b.evaluate.prompts import KINDS
from ssd1b.evaluate.scores import Scores, mean, share
from ssd1b.mini.scenes import BACKGROUNDS, BUCKETS, NOUNS, Scene, any_scene, caption, compose, draw
from ssd1b.plan import catalog, count
from ssd1b.plan.draw import svg

NAMES = ("mini-sdxl", "carved", "demo student", "mini-ssd")


def example(names: Sequence[str] = NAMES) -> Comparison:
    """A whole comparison of so many models."""
    rng = random.Random(0)
    entries = tuple(_entry(name, number, rng) for number, name in enumerate(names))
    drawing = Drawing("mini-ssd", "Miniature of SSD-1B", svg(catalog.find("mini-ssd")), tuple(names[1:]))
    return Comparison(
        title=f"{names[0]} and {names[-1]}",
        entries=entries,
        shots=tuple(_shot(n, BUCKETS[0], names) for n in range(8)),
        aspects=tuple(_aspect(n, bucket, names) for n, bucket in enumerate(BUCKETS)),
        drawings=(drawing,),
        ablation=_ablation(),
        reader_accuracy={"object": 0.981, "style": 0.99, "background": 0.998, "position": 0.979},
        facts={"command": "ssd1b compare mini-sdxl mini-ssd --out report", "device": "cpu, float32"},
    )


def _entry(name: str, number: int, rng: random.Random) -> Entry:
    shape = catalog.find("mini-ssd" if number else "mini-sdxl").shape
    good = {0: 0.93, 1: 0.42}.get(number, 0.88 + 0.01 * number)
    kinds = {kind: share(round(92 * min(1, good * rng.uniform(0.9, 1.08))), 92) for kind in KINDS}
    seconds = (0.71, 0.42)[number > 0] * rng.uniform(0.98, 1.02)
    params = count.parameters(shape)
    return Entry(
        name=name,
        source=f"runs/{name}/student",
        size=Size(
            params, params * 4, params * 4 + 9_000_000, shape.transformer_blocks,
            count.flops(shape, 128, 128), (128, 128),
        ),
        speed=Speed(seconds, (seconds * 0.97, seconds * 1.06), 0.02, seconds - 0.06, 0.04, 5),
        scores=Scores(kinds, mean(list(kinds.values()))),
        curves=_curves(number) if number != 1 else None,
    )  # fmt: skip


def _curves(number: int) -> Curves | None:
    rng = random.Random(number)
    lines: list[dict[str, object]] = []
    for step in range(10, 2000, 10):
        fall = math.exp(-step / 500) + 0.2
        losses = {"task": 0.3 * fall * rng.uniform(0.9, 1.1)}
        if number:
            losses |= {"output": 0.05 * fall * rng.uniform(0.9, 1.1), "feature": 4 * fall}
        lines.append({"stage": "middle" if step < 700 else "ssd", "total": step, "losses": losses})
    return of_lines(lines)


def _aspect(n: int, bucket: tuple[int, int], names: Sequence[str]) -> Shot:
    scene = compose(random.Random(n), "one", (NOUNS[n],), "glossy", tuple(BACKGROUNDS)[n], bucket)
    return Shot(caption(scene, 3), NOUNS[n], bucket, _pictures(scene, n, names))


def _shot(n: int, bucket: tuple[int, int], names: Sequence[str]) -> Shot:
    scene = any_scene(7, n, bucket)
    label = "held out" if n % 4 == 3 else "two objects"
    return Shot(caption(scene, n), label, bucket, _pictures(scene, n, names))


def _pictures(scene: Scene, n: int, names: Sequence[str]) -> tuple[Picture, ...]:
    picture = Image.fromarray(draw(scene))
    pictures = []
    for number, _ in enumerate(names):
        data = io.BytesIO()
        picture.filter(ImageFilter.GaussianBlur(2.2 if number == 1 else 0.5)).save(data, "WEBP", quality=90)
        pictures.append(Picture(data.getvalue(), number != 1 or n % 3 == 0, "seen: crab, soft, blue"))
    return tuple(pictures)


def _ablation() -> Ablation:
    arms = (
        Arm("carved, not trained", 0, 0, (0.41, 0.41, 0.41)),
        Arm("without teacher, equal samples", 64_000, 2100, (0.82, 0.835, 0.827)),
        Arm("without teacher, equal time", 103_000, 3400, (0.85, 0.848, 0.853)),
        Arm("distilled (faithful)", 64_000, 3400, (0.84, 0.851, 0.846)),
        Arm("distilled (normalised)", 64_000, 3400, (0.872, 0.866, 0.861)),
    )
    return Ablation(arms, 0.91, "ssd1b distill mini-ablation")
