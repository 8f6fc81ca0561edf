"""Sheets of an evaluation's pictures: one PNG per kind, each picture framed by its verdict.

Green passed, red failed; under each picture what was asked, and where it failed what was seen. For looking
at, not for measuring. This module does not know models.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ssd1b.base.files import write_atomic
from ssd1b.evaluate.judging import Answer
from ssd1b.evaluate.prompts import KINDS, Prompt
from ssd1b.evaluate.scores import passes
from ssd1b.generate.sheet import contact_sheet
from ssd1b.mini.reader import Reading

PASSED, FAILED, PAPER, INK, SOFT = "#2f9e6e", "#d64545", "#ffffff", "#1f2733", "#8a94a6"
SIDE, FRAME, LINE = 128, 4, 13


def write_sheets(answers: Sequence[Answer], folder: Path) -> list[Path]:
    """Write `<kind>.png` for every kind that has answers; return the files."""
    written = []
    for kind in KINDS:
        tiles = [tile(answer) for answer in answers if answer.prompt.kind == kind]
        if tiles:
            path = folder / f"{kind}.png"
            write_atomic(path, _png(contact_sheet(tiles)))
            written.append(path)
    return written


def tile(answer: Answer) -> Image.Image:
    """One picture in its frame, shrunk to fit a square if need be, with one or two lines under it."""
    passed = passes(answer.prompt, answer.reading)
    side = SIDE + 2 * FRAME
    sheet = Image.new("RGB", (side + 8, side + 2 * LINE + 8), PAPER)
    with Image.open(answer.picture) as file:
        picture = file.convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    width, height = picture.size
    left, top = (side - width) // 2 + 4 - FRAME, (side - height) // 2 + 4 - FRAME
    pen = ImageDraw.Draw(sheet)
    frame = (left, top, left + width + 2 * FRAME - 1, top + height + 2 * FRAME - 1)
    pen.rectangle(frame, fill=PASSED if passed else FAILED)
    sheet.paste(picture, (left + FRAME, top + FRAME))
    font = ImageFont.load_default(10)
    pen.text((4, side + 5), _asked(answer.prompt), INK, font)
    if not passed:
        pen.text((4, side + 5 + LINE), _seen(answer.reading), FAILED, font)
    return sheet


def _asked(prompt: Prompt) -> str:
    return ", ".join([" + ".join(prompt.nouns), *([prompt.place] if prompt.place else []), prompt.style])


def _seen(reading: Reading) -> str:
    things = " + ".join(reading.nouns[:3]) or "nothing"
    style = f", {reading.things[0].style}" if reading.things else ""
    return f"seen: {things}{style}, {reading.background}"


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()
