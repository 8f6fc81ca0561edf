"""`ssd1b data`: from captioned pictures to exact batches, once and checkably.

Wires sources, workers and encoders to folders; knows none of their insides.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd1b.base.errors import DamagedFileError, DataError
from ssd1b.cli import show

if TYPE_CHECKING:
    from ssd1b.data.manifest import Manifest
    from ssd1b.data.places import Place
    from ssd1b.data.runners import Runner

app = typer.Typer(no_args_is_help=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Workers = Annotated[int | None, typer.Option(help="Processes of this machine; all its cores if not given.")]
RayAddress = Annotated[
    str | None, typer.Option("--ray", help="Address of a Ray cluster to work on instead, or `local`.")
]
Folder = Annotated[str, typer.Argument(help="What `ssd1b data ingest` made: a folder or a URL.")]


@app.callback()
def about() -> None:
    """Captioned pictures: look at each once, sort out the bad, encode, and train from exact batches.

    Examples:
        ssd1b data ingest pictures --out prepared

        ssd1b data cache prepared --model segmind/SSD-1B

        ssd1b data show prepared --status quarantined
    """


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(help="A folder, a URL, or a dataset's name with --source hub.")],
    out: Annotated[str, typer.Option("--out", help="Folder or URL for manifest, report and cache.")],
    kind: Annotated[str, typer.Option("--source", help="auto, folder, webdataset, parquet or hub.")] = "auto",
    layout: Annotated[str, typer.Option(help="What the fields mean: plain, grit or midjourney.")] = "plain",
    captions: Annotated[str, typer.Option(help="Caption file inside the folder: .jsonl, .csv.")] = "",
    image_column: Annotated[str, typer.Option(help="Column of the pictures, if not a usual name.")] = "",
    caption_column: Annotated[str, typer.Option(help="Column of the captions, if not a usual name.")] = "",
    split: Annotated[str, typer.Option(help="Split of a hub dataset.")] = "train",
    revision: Annotated[str, typer.Option(help="Revision of a hub dataset.")] = "",
    buckets: Annotated[str, typer.Option(help="Table of sizes: ssd-1b (nine) or sdxl.")] = "ssd-1b",
    side: Annotated[int, typer.Option(help="Native side of the model: 1024; the miniature's is 128.")] = 1024,
    least: Annotated[
        int | None, typer.Option(help="Smallest shorter side in pixels; half of --side if not given.")
    ] = None,
    near: Annotated[bool, typer.Option(help="Also find other files of the same picture.")] = True,
    workers: Workers = None,
    ray: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Look at every picture once and write the manifest and a report. The same command again goes on.

    Nothing is deleted or changed: pictures that are not fit are listed with the reason.

    Examples:
        ssd1b data ingest pictures --out prepared

        ssd1b data ingest grit --source webdataset --layout grit --out prepared --json

        ssd1b data ingest scenes --side 128 --out prepared
    """
    from ssd1b.data import needed

    needed("pyarrow", "fsspec")
    from ssd1b.data.ingest import Settings, begin, finish, samples_of
    from ssd1b.data.report import REPORT, write_report
    from ssd1b.data.sources import Spec, guess

    root = source if kind == "hub" else _absolute(source)
    named = guess(root) if kind == "auto" else kind
    spec = Spec(named, root, layout, captions, image_column, caption_column, split, revision)
    settings = Settings(spec, buckets, side, side // 2 if least is None else least, near)
    place = _place(out)
    told = begin(settings, place)
    with show.counting("looking", samples_of(settings, place), "pictures") as done:
        made = finish(settings, place, told, _runner(workers, ray), done)
    if not place.exists(REPORT):
        write_report(made)
    _tell(made, as_json)


@app.command()
def cache(
    folder: Folder,
    model: Annotated[str, typer.Option(help="Whose VAE and text encoders: a model's name or folder.")],
    dtype: Annotated[str, typer.Option(help="Numbers on disk: fp16, bf16 or fp32.")] = "fp16",
    flips: Annotated[bool, typer.Option("--flips", help="Also encode every picture mirrored.")] = False,
    text: Annotated[
        bool, typer.Option("--text", help="Also keep text embeddings; else encoded in training.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; chosen if not given.")] = None,
    workers: Workers = None,
    ray: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Encode every accepted picture once. The same command again makes only what is missing.

    Examples:
        ssd1b data cache prepared --model segmind/SSD-1B

        ssd1b data cache prepared --model mini-sdxl --flips --text
    """
    from ssd1b.cli.distill import model_folder
    from ssd1b.data import needed
    from ssd1b.models.device import choose

    needed("pyarrow", "fsspec")
    from ssd1b.data.cache import Encoder, cache_latents
    from ssd1b.data.shards import DTYPES, read_index
    from ssd1b.data.texts import cache_texts

    if dtype not in DTYPES:
        raise DataError(f"No number format is called '{dtype}'. There are: {', '.join(DTYPES)}.")
    made = _manifest(folder)
    where = choose(device, "float32").device
    encoder = Encoder(str(model_folder(model).absolute()), dtype, str(where))
    runner = _runner(workers if where.type == "cpu" else 1, ray)
    total = made.accepted.num_rows * (2 if flips else 1)
    with show.counting("encoding pictures", total, "pictures") as done:
        homes = [cache_latents(made, encoder, runner, done, flips=flips)]
    if text:
        captions = len({*made.accepted["caption_hash"].to_pylist()}) + 1
        with show.counting("encoding captions", captions, "captions") as done:
            homes.append(cache_texts(made, encoder, runner, done))
    rows = sum(shard.rows for shard in read_index(homes[0])[1] if not shard.variant)
    record = {"accepted": made.accepted.num_rows, "encoded": rows, "folders": [home.root for home in homes]}
    if as_json:
        show.print_json(record)
    else:
        lost = made.accepted.num_rows - rows
        tail = f" {lost} were not finite and are left out." if lost else ""
        show.say(f"{rows} pictures are encoded in {homes[0].root}.{tail}")


@app.command()
def check(folder: Folder, as_json: Json = False) -> None:
    """Read everything that was written and compare it with its hashes.

    Examples:
        ssd1b data check prepared
    """
    from ssd1b.data.images import caches
    from ssd1b.data.shards import checked

    made = _manifest(folder)
    lost = made.uncaptioned()
    if lost:
        raise DamagedFileError(
            f"captions.parquet of {folder} lacks {lost} captions. Ingest into a new folder."
        )
    found = [(home, shard) for home, _, listed in caches(made.place) for shard in listed]
    with show.counting("checking", len(found), "shards") as done:
        for home, shard in found:
            checked(home, shard)
            done(1)
    record = {"manifest_sha256": made.digest, "samples": made.table.num_rows, "shards": len(found)}
    if as_json:
        show.print_json(record)
    else:
        show.say(f"{folder} is whole: {made.table.num_rows} samples, {len(found)} shards.")


@app.command()
def report(
    folder: Folder,
    batch: Annotated[int, typer.Option(help="Batch size for which leftovers are counted.")] = 32,
    as_json: Json = False,
) -> None:
    """Write report.html again, and print the counts.

    Examples:
        ssd1b data report prepared --batch 64
    """
    from ssd1b.data import needed

    needed("pyarrow", "fsspec")
    from ssd1b.data.report import write_report

    made = _manifest(folder)
    write_report(made, batch)
    _tell(made, as_json)


@app.command(name="show")
def show_samples(
    folder: Folder,
    status: Annotated[str, typer.Option(help="accepted, duplicate or quarantined; all if not given.")] = "",
    reason: Annotated[str, typer.Option(help="Only this reason.")] = "",
    limit: Annotated[int, typer.Option(help="How many, from the first.")] = 20,
    as_json: Json = False,
) -> None:
    """List samples of a manifest.

    Examples:
        ssd1b data show prepared --status quarantined --limit 50

        ssd1b data show prepared --reason truncated --json
    """
    made = _manifest(folder)
    rows = made.chosen(status, reason)
    if as_json:
        show.print_json({"samples": rows.num_rows, "rows": rows.slice(0, limit).to_pylist()})
        return
    cells = [
        (str(row["key"]), str(row["status"]), str(row["reason"]), f"{row['width']}x{row['height']}",
         str(row["bucket"]), str(row["same_as"] or row["detail"]))
        for row in rows.slice(0, limit).to_pylist()
    ]  # fmt: skip
    title = f"{rows.num_rows} samples" + (f", the first {limit}" if rows.num_rows > limit else "")
    show.table(title, ("sample", "status", "reason", ">size", ">bucket", "about"), cells)


def _tell(made: Manifest, as_json: bool) -> None:
    from ssd1b.data.report import REPORT

    counts = made.counts()
    if as_json:
        show.print_json(counts)
        return
    reasons = counts["reasons"]
    assert isinstance(reasons, dict)
    rows = [(name, str(many)) for name, many in reasons.items()]
    title = f"{counts['accepted']} of {counts['found']} accepted"
    show.table(title, ("set aside because", ">samples"), rows)
    show.say(f"Manifest and {REPORT} are in {made.place.root}.")


def _manifest(folder: str) -> Manifest:
    from ssd1b.data import needed

    needed("pyarrow", "fsspec")
    from ssd1b.data.manifest import read

    return read(_place(folder))


def _runner(workers: int | None, ray: str | None) -> Runner:
    import os

    from ssd1b.data.cluster import Ray
    from ssd1b.data.runners import Alone, Pool

    if workers is not None and workers < 1:
        raise DataError(f"--workers {workers}: at least one is needed.")
    if ray is not None:
        return Ray(ray, workers)
    many = workers or os.cpu_count() or 1
    return Pool(many) if many > 1 else Alone()


def _place(root: str) -> Place:
    from ssd1b.data.places import Place

    return Place(_absolute(root))


def _absolute(root: str) -> str:
    """A local path from the root on, so that workers elsewhere find it; a URL as it is."""
    return root if "://" in root else str(Path(root).expanduser().absolute())
