"""Many pictures on one: contact sheets, and grids with what was varied written along two sides.

Does not know requests, models or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP_PX = 4
PAPER, INK = "white", "#1f2733"
_SMALLEST_PX, _LARGEST_PX = 11, 28


def contact_sheet(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Lay pictures out row by row on white; as square as they allow unless `columns` is given."""
    assert images, "a sheet needs pictures"
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = max(image.width for image in images), max(image.height for image in images)
    size = (columns * (width + GAP_PX) - GAP_PX, rows * (height + GAP_PX) - GAP_PX)
    sheet = Image.new("RGB", size, PAPER)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * (width + GAP_PX), row * (height + GAP_PX)))
    return sheet


def labelled(images: Sequence[Image.Image], across: Sequence[str], down: Sequence[str]) -> Image.Image:
    """Lay pictures out row by row, with a label above each column and left of each row.

    Args:
        images: len(down) rows of len(across), one after the other.
        across: one label a column; cut off where it would reach into the next.
        down: one label a row; [""] leaves no room at the left.
    """
    assert len(images) == len(across) * len(down), "a grid has a picture for every pair of labels"
    grid = contact_sheet(images, len(across))
    cell_w = (grid.width + GAP_PX) // len(across) - GAP_PX
    cell_h = (grid.height + GAP_PX) // len(down) - GAP_PX
    letters_px = min(_LARGEST_PX, max(_SMALLEST_PX, cell_w // 12))
    font = ImageFont.load_default(letters_px)
    line = math.ceil(letters_px * 1.5)
    names = [_within(label, max(cell_w, 160), font) for label in down]
    left = math.ceil(max(font.getlength(name) for name in names))
    left += 2 * GAP_PX if left else 0
    sheet = Image.new("RGB", (left + grid.width, line + grid.height), PAPER)
    sheet.paste(grid, (left, line))
    pen = ImageDraw.Draw(sheet)
    for number, label in enumerate(across):
        middle = left + number * (cell_w + GAP_PX) + cell_w / 2
        pen.text((middle, line / 2), _within(label, cell_w, font), INK, font, anchor="mm")
    for number, name in enumerate(names):
        middle = line + number * (cell_h + GAP_PX) + cell_h / 2
        pen.text((GAP_PX, middle), name, INK, font, anchor="lm")
    return sheet


def _within(label: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of a label, in one line, as `width` pixels hold."""
    line = " ".join(label.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
