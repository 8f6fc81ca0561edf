"""Where the parts of a U lie on paper: columns by x, resolution levels by y, in pixels.

Down path on the left from the top, middle across the bottom, up path on the right towards the top; a row
holds one layer, a residual block with its attention site. Left and right rows that a skip connection joins
are level. This module does not know what is kept, nor how anything is painted.
"""

from __future__ import annotations

from dataclasses import dataclass

from ssd1b.plan.shape import UNetShape

CELL, CELL_HIGH, STEP = 24.0, 26.0, 28.0
RESIDUAL, APART, PAD = 42.0, 12.0, 7.0
ROW, HEAD, TAIL = 46.0, 38.0, 8.0
MARGIN, BETWEEN, TITLE, GAP = 44.0, 190.0, 166.0, 46.0
PILL, PILL_HIGH = 116.0, 24.0
_COLUMN_AT_LEAST = 300.0

Spot = tuple[float, float]
"""The left edge and the centre line of something."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of one teacher's parts."""

    shape: UNetShape

    @property
    def column(self) -> float:
        """The width of the down and of the up column."""
        deepest = max(self.shape.depths.values(), default=0)
        return max(_COLUMN_AT_LEAST, RESIDUAL + self.site(deepest) + 2 * PAD)

    @property
    def right(self) -> float:
        """The left edge of the up column."""
        return MARGIN + self.column + BETWEEN

    @property
    def width(self) -> float:
        """The width of the picture."""
        return self.right + self.column + MARGIN

    @property
    def height(self) -> float:
        """The height of the picture."""
        return self.mid_top + HEAD + ROW + TAIL + MARGIN * 0.75

    @property
    def band(self) -> float:
        """The height of one resolution level: the up path has one row more than the down path has layers."""
        return HEAD + (self.shape.layers_per_block + 1) * ROW + TAIL

    @property
    def spines(self) -> tuple[float, float]:
        """The x of the lines that the latent runs down and up along."""
        return MARGIN + PAD + RESIDUAL / 2, self.right + PAD + RESIDUAL / 2

    @property
    def mid_top(self) -> float:
        """The upper edge of the middle's band."""
        return self.top(len(self.shape.channels))

    @property
    def mid(self) -> Spot:
        """The middle, half-way between the spines."""
        return (sum(self.spines) - self.mid_wide) / 2, self.mid_top + HEAD + ROW / 2

    @property
    def mid_wide(self) -> float:
        """The width of the middle: residual blocks with the site between them."""
        site = 0.0 if self.shape.mid_depth is None else self.site(self.shape.mid_depth)
        return self.shape.mid_resnets * RESIDUAL + site + APART * max(0, self.shape.mid_resnets - 1)

    def top(self, level: int) -> float:
        """The upper edge of a level's band."""
        return TITLE + level * (self.band + GAP)

    def layer(self, block: str, index: int) -> Spot:
        """One layer of a down or up block; the up path is stacked from its first layer upwards."""
        level = self.shape.level(block)
        if block.startswith("down_"):
            return MARGIN + PAD, self._row(level, index + 1)
        return self.right + PAD, self._row(level, self.shape.layers_per_block - index)

    def opening(self, level: int) -> Spot:
        """What opens a level on the way down: conv_in or a downsampler."""
        return MARGIN + PAD, self._row(level, 0)

    def closing(self, level: int) -> Spot:
        """What closes a level on the way up: an upsampler or conv_out."""
        return self.right + PAD, self.top(level) - GAP / 2

    def layer_end(self, block: str, index: int) -> float:
        """The right edge of a layer."""
        depth = self.shape.depths.get(f"{block}.attentions.{index}")
        return self.layer(block, index)[0] + RESIDUAL + (0.0 if depth is None else self.site(depth))

    @staticmethod
    def site(depth: int) -> float:
        """The width of an attention site with the space before it."""
        return APART + 2 * PAD + max(depth, 1) * STEP - (STEP - CELL)

    def _row(self, level: int, number: int) -> float:
        return self.top(level) + HEAD + (number + 0.5) * ROW
