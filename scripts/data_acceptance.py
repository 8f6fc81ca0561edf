"""A folder of mini scenes with every kind of damage planted goes through ingest, cache and distill.

Three in a hundred files are of each kind of damage, and the manifest must list exactly what was planted:
every damaged file with its reason, every file that can be put right with its flag, nothing else. What is
finished is kept, so the same command goes on; the record is written to FOLDER/acceptance.json.

    python scripts/data_acceptance.py [--n 20000] [--folder runs/data-acceptance] [--workers 2]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from ssd1b.base.files import write_atomic
from ssd1b.cli import show
from ssd1b.data.manifest import read
from ssd1b.data.places import Place
from ssd1b.mini.scenes import BUCKETS, Scene, caption, draw, training_scene

SHARE = 0.03
SIDE = 128
FORMATS = (("jpg", "JPEG", {"quality": 92}), ("png", "PNG", {}), ("webp", "WEBP", {"quality": 90}))
Planted = dict[str, dict[str, object]]
"""By file name: status, reason and flags that the manifest must give it."""
RECIPE = """\
name: acceptance
source: images
parts: mini-parts
stages:
  - {{name: one, plan: mini-ssd, start: teacher, teacher: mini-sdxl, steps: {steps}, batch: 16, log_every: 1,
     weighting: v, learning_rate: 1.0e-4, data: {{path: {path}}}}}
"""


def main() -> None:
    """Render, ingest, compare, encode, train; print and write down what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000, help="files")
    parser.add_argument("--folder", type=Path, default=Path("runs/data-acceptance"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=10, help="training steps at the end")
    given = parser.parse_args()
    home = given.folder.absolute()
    if not (home / "planted.json").is_file():
        write_atomic(home / "planted.json", json.dumps(render(home / "scenes", given.n)))
    planted = json.loads((home / "planted.json").read_text())
    workers = ["--workers", str(given.workers)]
    prepared, seconds = str(home / "prepared"), {}
    ingest = ["data", "ingest", str(home / "scenes"), "--out", prepared, "--side", str(SIDE), "--json"]
    counts, seconds["ingest"] = ssd1b(*ingest, *workers)
    wrong = compare(planted, Path(prepared))
    cached, seconds["cache"] = ssd1b(
        "data", "cache", prepared, "--model", "mini-parts", "--text", "--json", *workers
    )
    write_atomic(home / "recipe.yaml", RECIPE.format(steps=given.steps, path=prepared))
    _, seconds["distill"] = ssd1b(
        "distill", str(home / "recipe.yaml"), "--out", str(home / "run"), "--device", "cpu"
    )
    losses = [json.loads(line) for line in (home / "run" / "log.jsonl").read_text().splitlines()]
    trained = [each["losses"]["loss"] for each in losses if "losses" in each]
    record = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "files": len(planted),
        "planted": tally(planted),
        "found": counts,
        "wrong": wrong,
        "cached": cached,
        "losses": trained,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    write_atomic(home / "acceptance.json", json.dumps(record, indent=1) + "\n")
    show.print_json(record)
    if wrong or len(trained) != given.steps:
        sys.exit(f"{len(wrong)} files are not listed as they were planted")


def ssd1b(*words: str) -> tuple[dict[str, object], float]:
    """Run one command line; its JSON, if it prints any, and its seconds."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "ssd1b", *words], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout or b"{}"), time.monotonic() - start


def compare(planted: Planted, prepared: Path) -> list[str]:
    """Every file whose row is not as planted, and every row that belongs to no file."""
    rows = {row["key"]: row for row in read(Place(str(prepared))).table.to_pylist()}
    wrong = [f"{key}: a row nobody planted" for key in sorted(set(rows) - set(planted))]
    for key, wanted in planted.items():
        row = rows.get(key, {})
        got = {name: row.get(name) for name in wanted}
        if got != wanted:
            wrong.append(f"{key}: {got} ({row.get('detail')}), planted {wanted}")
    return wrong


def tally(planted: Planted) -> dict[str, int]:
    """How many files of each kind were planted."""
    kinds: dict[str, int] = {}
    for wanted in planted.values():
        name = str(wanted["reason"] or ", ".join(map(str, wanted["flags"])) or "clean")  # type: ignore[call-overload]
        kinds[name] = kinds.get(name, 0) + 1
    return kinds


def render(folder: Path, n: int) -> Planted:
    """Write `n` files with their captions and return what each must be found to be."""
    scenes, each, planted = unlike(), max(1, round(n * SHARE)), Planted()
    maker = Maker(folder, scenes, planted)
    for plant in PLANTS:
        for _ in range(each):
            plant(maker)
    while len(planted) < n:
        maker.write(*maker.clean())
    return planted


def unlike() -> Iterator[Scene]:
    """Scenes of which no two are equal: pictures that are would rightly count as duplicates."""
    seen, number = set(), 0
    while True:
        bucket = BUCKETS[0 if number % 2 else number // 2 % len(BUCKETS)]
        scene = training_scene(11, number, bucket, (1, 1, 8))
        number += 1
        if scene not in seen:
            seen.add(scene)
            yield scene


class Maker:
    """Writes files under running numbers, a thousand to a folder, and remembers what they are."""

    def __init__(self, folder: Path, scenes: Iterator[Scene], planted: Planted) -> None:
        self.folder, self.scenes, self.planted = folder, scenes, planted
        self.rng = random.Random(5)

    def picture(self) -> Image.Image:
        """A scene that was not drawn yet; not drawn where the files of a run that was stopped are there."""
        self.scene = next(self.scenes)
        number = len(self.planted)
        if self._done(number) and self._done(number + 1):
            return Image.new("RGB", (8, 8))
        return Image.fromarray(draw(self.scene))

    def _done(self, number: int) -> bool:
        """Whether all thousand files that a number is one of were written."""
        return (self.folder / f".{number // 1000:03d}-done").exists()

    def encoded(self, image: Image.Image, number: int, **more: object) -> tuple[bytes, str]:
        """A picture in one of three formats, turn by turn."""
        suffix, kind, options = FORMATS[number % len(FORMATS)]
        out = io.BytesIO()
        image.save(out, kind, **{**options, **more})
        return out.getvalue(), suffix

    def clean(self) -> tuple[bytes, str]:
        """A file without damage."""
        return self.encoded(self.picture(), len(self.planted))

    def write(
        self,
        data: bytes,
        suffix: str,
        reason: str = "",
        flag: str = "",
        text: bytes | None = b"",
    ) -> None:
        """Write a picture and its caption (`text`: b"" is the scene's own, None is none)."""
        number = len(self.planted)
        name = f"{number // 1000:03d}/{number:06d}.{suffix}"
        path = self.folder / name
        if not self._done(number):
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(data)
            if text is not None:
                path.with_suffix(".txt").write_bytes(text or caption(self.scene, number).encode())
        if number % 1000 == 999:
            (self.folder / f".{number // 1000:03d}-done").touch()
        duplicate = reason.endswith("duplicate")
        status = "duplicate" if duplicate else "quarantined" if reason else "accepted"
        self.planted[name] = {"status": status, "reason": reason, "flags": [flag] if flag else []}


def exact_duplicate(maker: Maker) -> None:
    """A file and, later in order, the same file."""
    data, suffix = maker.clean()
    maker.write(data, suffix)
    maker.write(data, suffix, "exact duplicate")


def near_duplicate(maker: Maker) -> None:
    """A picture and the same recompressed, or enlarged; then the smaller one is to go."""
    image, number = maker.picture(), len(maker.planted)
    larger = number % 4 == 0
    maker.write(*maker.encoded(image, number), reason="near duplicate" if larger else "")
    if larger:
        image = image.resize((image.width * 3 // 2, image.height * 3 // 2), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=70)
    maker.write(out.getvalue(), "jpg", "" if larger else "near duplicate")


def undecodable(maker: Maker) -> None:
    """No picture at all: an error page, nothing, noise, a picture with its middle overwritten."""
    data, suffix = maker.encoded(maker.picture(), 1)
    middle = len(data) // 2
    kinds = (
        b"<!DOCTYPE html><title>404</title>",
        b"",
        maker.rng.randbytes(500),
        data[:middle] + b"\0" * 40 + data[middle + 40 :],
    )
    maker.write(kinds[len(maker.planted) % len(kinds)], suffix, "undecodable")


def truncated(maker: Maker) -> None:
    """The first part of a file, as a broken download leaves it."""
    data, suffix = maker.clean()
    maker.write(data[: int(len(data) * maker.rng.uniform(0.3, 0.9))], suffix, "truncated")


def bomb(maker: Maker) -> None:
    """A small PNG that says it is gigabytes of pixels."""
    out, side = io.BytesIO(), maker.rng.randrange(20_000, 60_000)
    maker.picture().save(out, "PNG")
    data = bytearray(out.getvalue())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    maker.write(bytes(data), "png", "too many pixels")


def animated(maker: Maker) -> None:
    """Two frames in a GIF, a PNG or a WebP."""
    first, second = maker.picture(), maker.picture().resize((128, 128))
    suffix, kind = (("gif", "GIF"), ("png", "PNG"), ("webp", "WEBP"))[len(maker.planted) % 3]
    out = io.BytesIO()
    first.resize((128, 128)).save(out, kind, save_all=True, append_images=[second], duration=80)
    maker.write(out.getvalue(), suffix, "animated")


def too_small(maker: Maker) -> None:
    """A thumbnail."""
    image = maker.picture().resize((48, 48))
    maker.write(*maker.encoded(image, len(maker.planted)), reason="too small")


def extreme(maker: Maker) -> None:
    """A banner, lying or standing."""
    size = (640, 80) if len(maker.planted) % 2 else (80, 640)
    image = maker.picture().resize(size)
    maker.write(*maker.encoded(image, len(maker.planted)), reason="extreme aspect")


def uncaptioned(maker: Maker) -> None:
    """No caption file, or one of blanks."""
    text = None if len(maker.planted) % 2 else b"  \n"
    maker.write(*maker.clean(), reason="no caption", text=text)


def garbled(maker: Maker) -> None:
    """A caption in another encoding than UTF-8."""
    maker.write(*maker.clean(), reason="broken caption", text="ein Fuchs, süß".encode("latin-1"))


def cmyk(maker: Maker) -> None:
    """A JPEG in printing colours."""
    out = io.BytesIO()
    maker.picture().convert("CMYK").save(out, "JPEG", quality=92)
    maker.write(out.getvalue(), "jpg", flag="cmyk")


def sixteen(maker: Maker) -> None:
    """A grey PNG of 16 bits."""
    grey = np.asarray(maker.picture().convert("L")).astype(np.uint16) * 257
    out = io.BytesIO()
    Image.fromarray(grey).save(out, "PNG")
    maker.write(out.getvalue(), "png", flag="16-bit")


def turned(maker: Maker) -> None:
    """A picture that lies on its side, and says so."""
    image = maker.picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    data, suffix = maker.encoded(image.transpose(Image.Transpose.ROTATE_90), len(maker.planted), exif=exif)
    maker.write(data, suffix, flag="turned")


def transparent(maker: Maker) -> None:
    """A picture that is half transparent."""
    image = maker.picture()
    image.putalpha(Image.linear_gradient("L").resize(image.size).point(lambda value: 128 + value // 2))
    maker.write(*maker.encoded(image, 1 + len(maker.planted) % 2), flag="transparent")


PLANTS: tuple[Callable[[Maker], None], ...] = (
    exact_duplicate, near_duplicate, undecodable, truncated, bomb, animated, too_small, extreme,
    uncaptioned, garbled, cmyk, sixteen, turned, transparent,
)  # fmt: skip


if __name__ == "__main__":
    main()
