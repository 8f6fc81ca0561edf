"""Aspect buckets: which size a picture is trained at, and what of it is kept.

Sizes are (width, height) in pixels. Decided once, at ingestion, from the picture's own size; the numbers go
into the manifest and from there unchanged into the micro-conditioning. Knows no files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ssd1b.base.errors import DataError, did_you_mean
from ssd1b.base.units import ASPECTS, VAE_SCALE

Size = tuple[int, int]

# SDXL's multi-aspect sizes (arXiv:2307.01952, appendix I), by the shorter side, and their mirror images.
_SDXL: dict[int, tuple[int, ...]] = {
    512: (2048, 1984, 1920, 1856),
    576: (1792, 1728, 1664),
    640: (1600, 1536),
    704: (1472, 1408, 1344),
    768: (1344, 1280),
    832: (1216, 1152),
    896: (1152, 1088),
    960: (1088, 1024),
}
_SDXL_WIDE: tuple[Size, ...] = tuple((long, short) for short, longs in _SDXL.items() for long in longs)
TABLES: dict[str, tuple[Size, ...]] = {
    "ssd-1b": tuple(ASPECTS.values()),
    "sdxl": ((1024, 1024), *_SDXL_WIDE, *((h, w) for w, h in _SDXL_WIDE)),
}
LARGEST_LOSS = 0.25


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture comes to its bucket: enlarged or shrunk to `resized`, then cut from (left, top) on."""

    bucket: Size
    resized: Size
    left: int
    top: int

    @property
    def lost(self) -> float:
        """Share of the picture that the crop cuts off."""
        kept = self.bucket[0] * self.bucket[1]
        return 1.0 - kept / (self.resized[0] * self.resized[1])


def table(name: str, side_px: int = 1024) -> tuple[Size, ...]:
    """A table by name, for models of a native side of `side_px` pixels (SDXL 1024, the miniature 128).

    Raises:
        DataError: no table has this name, or the sizes at this side are no multiples of 8.
    """
    if name not in TABLES:
        hint = did_you_mean(name, TABLES) or f" There are: {', '.join(TABLES)}."
        raise DataError(f"No table of buckets is called '{name}'.{hint}")
    sizes = tuple((w * side_px // 1024, h * side_px // 1024) for w, h in TABLES[name])
    sides = [side * side_px for size in TABLES[name] for side in size]
    exact = all(side % (1024 * VAE_SCALE) == 0 for side in sides)
    if not exact or side_px <= 0:
        raise DataError(
            f"A native side of {side_px} px makes sizes that are no multiples of 8. Use 1024 or 128."
        )
    return sizes


def fit(size: Size, buckets: Sequence[Size]) -> Fit:
    """The bucket nearest in aspect (by its logarithm; the first of equals), covered, cut in the middle."""
    width, height = size
    aspect = math.log(width / height)
    bucket = min(buckets, key=lambda one: abs(math.log(one[0] / one[1]) - aspect))
    scale = max(bucket[0] / width, bucket[1] / height)
    resized = (max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale)))
    return Fit(bucket, resized, (resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2)


def named(bucket: Size) -> str:
    """A bucket's name: "1024x1024"."""
    return f"{bucket[0]}x{bucket[1]}"


def sized(name: str) -> Size:
    """The bucket of a name."""
    width, height = name.split("x")
    return int(width), int(height)
