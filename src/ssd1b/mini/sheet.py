"""A sheet of scenes with their captions, for people who want to see what the models are trained on."""

from __future__ import annotations

import textwrap

from PIL import Image, ImageDraw, ImageFont

from ssd1b.mini.scenes import BUCKETS, caption, draw, training_scene

COLUMNS, CELL_W, CELL_H = 6, 216, 236


def scene_sheet(seed: int) -> Image.Image:
    """Six training scenes for each of the nine sizes, captions below."""
    sheet = Image.new("RGB", (COLUMNS * CELL_W, len(BUCKETS) * CELL_H), "#fbfaf8")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, bucket in enumerate(BUCKETS):
        for column in range(COLUMNS):
            scene = training_scene(seed, row * COLUMNS + column, bucket)
            x = column * CELL_W + (CELL_W - bucket[0]) // 2
            y = row * CELL_H + 196 - bucket[1]
            sheet.paste(Image.fromarray(draw(scene)), (x, y))
            lines = textwrap.wrap(caption(scene, seed + column), 34)[:3]
            for n, line in enumerate(lines):
                left = column * CELL_W + (CELL_W - pen.textlength(line, font=font)) / 2
                pen.text((left, row * CELL_H + 199 + 12 * n), line, font=font, fill="#333333")
    return sheet
