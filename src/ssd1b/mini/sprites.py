"""The sprite pack: one picture per (noun, style), cut from the atlas in the package.

It knows nothing of scenes or captions. The atlas is made by `tools/make_sprites.py`; licences are in NOTICE.
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from importlib.resources import files

from PIL import Image

_ASSETS = files("ssd1b.mini") / "assets"
_INDEX = json.loads((_ASSETS / "sprites.json").read_text())

NOUNS: tuple[str, ...] = tuple(_INDEX["nouns"])
STYLES: tuple[str, ...] = tuple(_INDEX["styles"])
SIDE_PX: int = _INDEX["side_px"]


@cache
def _atlas() -> Image.Image:
    with (_ASSETS / "sprites.png").open("rb") as file:
        return Image.open(file).convert("RGBA")


@lru_cache(maxsize=4096)
def sprite(noun: str, style: str, side_px: int) -> Image.Image:
    """The sprite of a noun in a style, RGBA, `side_px` square."""
    x, y = NOUNS.index(noun) * SIDE_PX, STYLES.index(style) * SIDE_PX
    cell = _atlas().crop((x, y, x + SIDE_PX, y + SIDE_PX))
    return cell.resize((side_px, side_px), Image.Resampling.LANCZOS)
