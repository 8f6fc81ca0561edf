"""How fast data is prepared, as ratios of one run: against Pillow, the clock and a trainer.

Four measurements, each a median of rounds that take turns:

    prepare   a picture's bytes to a bucket's pixels, against Pillow doing only decode, resize and crop
    ingest    everything that ingestion does to a picture, against Pillow decoding it
    plan      a million synthetic rows: duplicates, manifest, buckets, batches; seconds and memory
    loader    samples a second out of a cache with texts, against what the miniature's trainer takes

    python scripts/data_bench.py [--pictures 48] [--rows 1000000] [--out docs/bench/data.json]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
from PIL import Image

from ssd1b.base.files import write_atomic
from ssd1b.cli import show
from ssd1b.data.ingest import Settings

ROUNDS = 5
STEPS = 4


def main() -> None:
    """Measure, print, write down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("docs/bench/data.json"))
    parser.add_argument("--leave", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.leave:
        return leave(given.leave, given.rows)
    if given.plan:
        return print(json.dumps(plan(given.plan)))
    with tempfile.TemporaryDirectory() as folder:
        again = [sys.executable, __file__, "--rows", str(given.rows)]
        subprocess.run([*again, "--leave", folder], check=True)
        done = subprocess.run([*again, "--plan", folder], check=True, capture_output=True, text=True)
        planned = json.loads(done.stdout)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    record = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        **pictures(given.pictures),
        "plan": planned,
        "loader": loader(),
    }
    write_atomic(given.out, json.dumps(record, indent=1) + "\n")
    show.print_json(record)


def turns(work: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median processor seconds of each, measured turn by turn."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, run in work.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: median(each) for name, each in seconds.items()}


def pictures(n: int) -> dict[str, object]:
    """Photograph-like JPEGs of one to three megapixels, one core."""
    from ssd1b.data.buckets import fit, table
    from ssd1b.data.ingest import row_of
    from ssd1b.data.pictures import prepared
    from ssd1b.data.sources import Found

    sizes = ((1600, 1200), (1280, 1280), (1920, 1080), (1200, 1800))
    files = [photograph(number, sizes[number % len(sizes)]) for number in range(n)]
    buckets = table("ssd-1b")
    fits = [fit(sizes[number % len(sizes)], buckets) for number in range(n)]
    settings = _settings()

    def pillow() -> None:
        for data, how in zip(files, fits, strict=True):
            image = Image.open(io.BytesIO(data)).convert("RGB").resize(how.resized, Image.Resampling.LANCZOS)
            image.crop((how.left, how.top, how.left + how.bucket[0], how.top + how.bucket[1])).load()

    work = {
        "pillow": pillow,
        "ours": lambda: [prepared(data, how) for data, how in zip(files, fits, strict=True)],
        "pillow_decode": lambda: [Image.open(io.BytesIO(data)).convert("RGB") for data in files],
        "ingest": lambda: [row_of(Found("x", "x", data, {"txt": "x"}), settings, buckets) for data in files],
    }
    seconds = turns(work)
    return {
        "prepare": {
            "pillow_pictures_per_s": n / seconds["pillow"],
            "pictures_per_s": n / seconds["ours"],
            "ratio": seconds["pillow"] / seconds["ours"],
        },
        "ingest": {
            "pillow_decode_pictures_per_s": n / seconds["pillow_decode"],
            "pictures_per_s": n / seconds["ingest"],
            "ratio": seconds["pillow_decode"] / seconds["ingest"],
        },
    }


def photograph(number: int, size: tuple[int, int]) -> bytes:
    """Soft shapes with some grain: what a photograph costs to decode."""
    rng = np.random.default_rng(number)
    blobs = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    soft = np.asarray(blobs.resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    grain = rng.integers(-12, 13, soft.shape, dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def plan(folder: Path) -> dict[str, float]:
    """What workers left to a manifest and the batches of its first epoch, in a process of its own."""
    from ssd1b.data import ingest, manifest
    from ssd1b.data.batches import Order
    from ssd1b.data.places import Place

    place, start, busy = Place(str(folder)), time.monotonic(), time.process_time()
    ingest.settle(_settings(), place)
    written = time.monotonic() - start
    made = manifest.read(place)
    order = Order({name: len(each) for name, each in made.by_bucket().items()}, 32, 0)
    for step in range(0, order.before(1), max(1, order.before(1) // 1000)):
        order.at(step)
    return {
        "rows": made.table.num_rows,
        "seconds": time.monotonic() - start,
        "processor_seconds": time.process_time() - busy,
        "seconds_to_manifest": written,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "duplicates": made.table.num_rows - made.accepted.num_rows,
    }


def leave(folder: Path, n: int) -> None:
    """Write synthetic rows as a hundred workers would leave them."""
    from ssd1b.data.manifest import as_parquet

    rows, each = synthetic(n), -(-n // 100)
    (folder / ".work" / "rows").mkdir(parents=True)
    for number in range(100):
        part = rows.slice(number * each, each)
        (folder / ".work" / "rows" / f"{number:05d}.parquet").write_bytes(as_parquet(part))
    (folder / ".work" / "pieces.jsonl").write_text('{"rows": 0}\n' * 100)


def _settings() -> Settings:
    from ssd1b.data.sources import Spec

    return Settings(Spec("folder", ""))


def synthetic(n: int) -> pa.Table:
    """A million rows of a library of photographs: one in fifty a copy, one in fifty a recompressed one."""
    from ssd1b.data import ingest
    from ssd1b.data.buckets import fit, named, table

    rng = np.random.default_rng(0)
    of = np.arange(n)
    copies, again = rng.choice(n, n // 50, replace=False), rng.choice(n, n // 50, replace=False)
    of[copies], of[again] = rng.integers(0, n, len(copies)), rng.integers(0, n, len(again))
    grid = np.empty((n, 192), np.uint8)
    for first in range(0, n, 1 << 16):
        blobs = rng.integers(0, 255, (min(1 << 16, n - first), 4, 4, 3), dtype=np.uint8)
        grid[first : first + len(blobs)] = blobs.repeat(2, axis=1).repeat(2, axis=2).reshape(len(blobs), -1)
    grid = grid[of]
    grid[again] = np.clip(grid[again].astype(int) + rng.integers(-1, 2, grid[again].shape), 0, 255)
    sizes = [(1600, 1200), (1200, 1600), (1500, 1500), (1920, 1080), (1800, 760)]
    fits = [fit(size, table("ssd-1b")) for size in sizes]
    kind = of % len(sizes)
    ids = [f"{number:032x}" for number in of.tolist()]
    for row in again.tolist():
        ids[row] = f"{n + row:032x}"

    def by_kind(values: list[object]) -> pa.Array:
        return pa.array(values).take(pa.array(kind))

    columns = {
        "id": pa.array(ids),
        "key": pa.array([f"{row // 10_000:05d}.tar:{row:09d}" for row in range(n)]),
        "locator": pa.array([f"{row // 10_000:05d}.tar|{row * 512}|200000" for row in range(n)]),
        "n_bytes": pa.array(np.full(n, 200_000)),
        "width": by_kind([size[0] for size in sizes]),
        "height": by_kind([size[1] for size in sizes]),
        "bucket": by_kind([named(each.bucket) for each in fits]),
        "resized_width": by_kind([each.resized[0] for each in fits]),
        "resized_height": by_kind([each.resized[1] for each in fits]),
        "left": by_kind([each.left for each in fits]),
        "top": by_kind([each.top for each in fits]),
        "flags": pa.array([[]] * n, pa.list_(pa.string())),
        "status": pa.array(["accepted"] * n),
        **{name: pa.array([""] * n) for name in ("reason", "detail", "same_as")},
        **{name: pa.nulls(n, pa.float32()) for name in ("aesthetic", "nsfw", "similarity")},
        "caption": pa.array([f"a caption of some forty letters, number {row}" for row in of.tolist()]),
        "caption_hash": pa.array([f"{row:032x}" for row in of.tolist()]),
        "grid": pa.FixedSizeBinaryArray.from_buffers(pa.binary(192), n, [None, pa.py_buffer(grid.tobytes())]),
    }
    return pa.table({field.name: columns[field.name] for field in ingest._ROWS}).cast(ingest._ROWS)


def loader() -> dict[str, float]:
    """Samples a second from a cache of the miniature, in one thread, and what its trainer takes."""
    import torch

    from ssd1b.cli.distill import model_folder
    from ssd1b.data import ingest
    from ssd1b.data.cache import Encoder, cache_latents
    from ssd1b.data.images import ImageBatches, ImageData
    from ssd1b.data.places import Place
    from ssd1b.data.runners import Alone
    from ssd1b.data.sources import Spec
    from ssd1b.data.texts import cache_texts
    from ssd1b.mini.scenes import BUCKETS, caption, draw, training_scene

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "in").mkdir()
        for number in range(256):
            scene = training_scene(1, number, BUCKETS[number % len(BUCKETS)])
            Image.fromarray(draw(scene)).save(home / "in" / f"{number}.png")
            (home / "in" / f"{number}.txt").write_text(caption(scene, number))
        settings = ingest.Settings(Spec("folder", str(home / "in")), side_px=128, least_px=64, near=False)
        made = ingest.ingest(settings, Place(str(home / "out")), Alone(), lambda more: None)
        parts = model_folder("mini-parts")
        for cache in (cache_latents, cache_texts):
            cache(made, Encoder(str(parts)), Alone(), lambda more: None)
        source = ImageBatches(parts, ImageData(str(home / "out")), 32, 0)
        source.batch_at(0)
        start = time.process_time()
        for step in range(100):
            source.batch_at(step)
        loaded = 3200 / (time.process_time() - start)
    return {"samples_per_s": loaded, **trainer(loaded)}


def trainer(loaded: float) -> dict[str, float]:
    """Samples a second of the miniature's distillation on one core, source and writing included."""
    import torch

    from ssd1b.cli.distill import providers
    from ssd1b.distill import recipe_file
    from ssd1b.distill.stages import Run, carry_out

    torch.set_num_threads(1)
    settings = [f"stages.*.{each}" for each in ("batch=32", f"steps={STEPS}", "data.scenes=320")]
    plain = recipe_file.read(recipe_file.find("mini-ssd-smoke"), settings)
    with tempfile.TemporaryDirectory() as folder:
        carry_out(Run(plain, Path(folder) / "run", providers()))
        lines = [json.loads(line) for line in (Path(folder) / "run" / "log.jsonl").read_text().splitlines()]
    takes = max(each["samples_per_s"] for each in lines if "samples_per_s" in each)
    return {"trainer_samples_per_s": takes, "ratio": loaded / takes}


if __name__ == "__main__":
    main()
