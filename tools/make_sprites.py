"""Render the mini world's sprite pack from openly licensed emoji artwork.

Sources are registry packages (npm `@iconify-json/*`), fetched with `npm pack`; drawing is resvg's. The
result, `src/ssd1b/mini/assets/sprites.png` (one row per style, one cell per noun) and `sprites.json`, is
committed, so nobody needs to run this to use ssd1b. Run again with:

    pip install resvg-py pillow
    python tools/make_sprites.py
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import resvg_py
from PIL import Image

SIDE_PX = 112
ASSETS = Path(__file__).parents[1] / "src/ssd1b/mini/assets"

# style -> (npm package, version, licence, author)
STYLES = {
    "flat": (
        "@iconify-json/twemoji",
        "1.2.5",
        "CC-BY-4.0",
        "Twitter and other contributors (jdecked/twemoji)",
    ),
    "glossy": ("@iconify-json/noto", "1.2.9", "Apache-2.0", "Google Inc (googlefonts/noto-emoji)"),
    "soft": (
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "MIT",
        "Microsoft Corporation (microsoft/fluentui-emoji)",
    ),
}

# noun -> icon name, the same in all three sets
NOUNS = {
    "fox": "fox", "cat": "cat-face", "panda": "panda", "frog": "frog", "owl": "owl", "penguin": "penguin",
    "octopus": "octopus", "turtle": "turtle", "butterfly": "butterfly", "whale": "whale", "crab": "crab",
    "apple": "red-apple", "banana": "banana", "strawberry": "strawberry", "pizza": "pizza",
    "hamburger": "hamburger", "doughnut": "doughnut", "cactus": "cactus", "mushroom": "mushroom",
    "sunflower": "sunflower", "rocket": "rocket", "car": "automobile", "house": "house",
    "umbrella": "umbrella",
}  # fmt: skip


def icons_of(package: str, version: str, folder: Path) -> dict[str, object]:
    """The icon file of one iconify package, fetched from the npm registry."""
    name = subprocess.run(
        ["npm", "pack", f"{package}@{version}", "--silent"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()[-1]
    with tarfile.open(folder / name) as tar:
        member = tar.extractfile("package/icons.json")
        assert member is not None, f"{name} has no icons.json"
        return json.load(member)


def render(icons: dict, name: str) -> Image.Image:
    """One icon as RGBA, trimmed to its ink and centred in a square of SIDE_PX."""
    icon = icons["icons"][name]
    width, height = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{2 * SIDE_PX}" height="{2 * SIDE_PX}">{icon["body"]}</svg>'
    )
    drawn = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    box = drawn.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox()
    assert box is not None, f"{name} is empty"
    ink = drawn.crop(box)
    scale = SIDE_PX / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    ink = ink.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE_PX, SIDE_PX))
    square.paste(ink, ((SIDE_PX - ink.width) // 2, (SIDE_PX - ink.height) // 2))
    return square


def main() -> None:
    """Draw the atlas and write its index."""
    atlas = Image.new("RGBA", (SIDE_PX * len(NOUNS), SIDE_PX * len(STYLES)))
    with tempfile.TemporaryDirectory() as folder:
        for row, (package, version, _, _) in enumerate(STYLES.values()):
            icons = icons_of(package, version, Path(folder))
            for column, icon in enumerate(NOUNS.values()):
                atlas.paste(render(icons, icon), (column * SIDE_PX, row * SIDE_PX))
    ASSETS.mkdir(parents=True, exist_ok=True)
    atlas.save(ASSETS / "sprites.png", optimize=True)
    sources = {
        s: dict(zip(("package", "version", "licence", "author"), v, strict=True)) for s, v in STYLES.items()
    }
    index = {"side_px": SIDE_PX, "nouns": list(NOUNS), "styles": list(STYLES), "sources": sources}
    (ASSETS / "sprites.json").write_text(json.dumps(index, indent=1) + "\n")
    print(
        f"{len(NOUNS)} nouns x {len(STYLES)} styles, {(ASSETS / 'sprites.png').stat().st_size / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    main()
