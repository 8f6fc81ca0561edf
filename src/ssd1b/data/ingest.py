"""Ingestion: look at every sample of a source once, settle duplicates, write the manifest.

    .work/plan.json, pieces.jsonl   what is to be done; written first
    .work/rows/00000.parquet        what was found in a piece; written by the workers
    pictures/00000.tar              the pictures of a piece, only where a source cannot be read again
    manifest.parquet, ...           written last; then .work goes

The same command goes on where it stopped. Does not know how workers are run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ssd1b.base.errors import DataError, OutputExistsError
from ssd1b.base.files import MANIFEST as PROVENANCE
from ssd1b.base.files import sha256_text, versions
from ssd1b.data import buckets, duplicates, layouts, manifest, pictures
from ssd1b.data.kept import Keeper
from ssd1b.data.manifest import ACCEPTED, DUPLICATE, QUARANTINED
from ssd1b.data.places import Place
from ssd1b.data.runners import Heard, Runner
from ssd1b.data.sources import Found, Piece, Source, Spec, open_source

WORK = ".work"
_PLAN, _PIECES = f"{WORK}/plan.json", f"{WORK}/pieces.jsonl"
_NOTHING = bytes(3 * pictures.GRID**2)
_ROWS = pa.schema([*manifest.SCHEMA, ("caption", pa.string()), ("grid", pa.binary(len(_NOTHING)))])


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the manifest besides the source.

    Attributes:
        spec: the source.
        buckets: the table of sizes, by name.
        side_px: native side of the model; the table is scaled to it.
        least_px: shorter side below which a picture is too small.
        near: whether pictures that look the same count as duplicates, not only files that are.
    """

    spec: Spec
    buckets: str = "ssd-1b"
    side_px: int = 1024
    least_px: int = 512
    near: bool = True


@dataclass(frozen=True, slots=True)
class Looking:
    """The work of the workers: a piece of the source in, a file of rows out."""

    out: Place
    settings: Settings

    def shards(self) -> Sequence[str]:
        """One for each piece."""
        return [f"{n:05d}" for n in range(len(_pieces(self.out)))]

    def size(self, shard: str) -> int:
        """Samples of the piece; 1 where that is not known before."""
        return max(int(_pieces(self.out)[int(shard)]["rows"]), 1)

    def is_done(self, shard: str) -> bool:
        """Whether the rows are there."""
        return self.out.exists(_rows_name(shard))

    def leases(self) -> Place:
        """In the work folder."""
        return Place(f"{self.out.root}/{WORK}/leases")

    def make(self, shard: str) -> None:
        """Look at every sample of the piece."""
        source = open_source(self.settings.spec)
        table = buckets.table(self.settings.buckets, self.settings.side_px)
        rows = []
        with Keeper(self.out, shard if source.streams else None) as keeper:
            for found in source.samples(_pieces(self.out)[int(shard)]):
                rows.append(row_of(keeper.keep(found), self.settings, table))
        self.out.write(_rows_name(shard), manifest.as_parquet(pa.Table.from_pylist(rows, schema=_ROWS)))


def ingest(settings: Settings, out: Place, runner: Runner, heard: Heard) -> manifest.Manifest:
    """Make the manifest of a source, or go on making it; one that is there is read.

    Raises:
        DataError: the source cannot be read as asked, or is not the one that was begun with.
        OutputExistsError: `out` holds the manifest of something else.
    """
    return finish(settings, out, begin(settings, out), runner, heard)


def finish(
    settings: Settings, out: Place, told: dict[str, Any], runner: Runner, heard: Heard
) -> manifest.Manifest:
    """Do what `begin` wrote down, and what it found undone."""
    if not out.exists(PROVENANCE):
        runner.run(Looking(out, settings), heard)
        if not out.exists(PROVENANCE):  # another machine may have been faster
            settle(settings, out)
            told = {**told, "versions": {**versions(), "pillow": metadata.version("pillow")}}
            out.write(PROVENANCE, (json.dumps(told, indent=2) + "\n").encode())
    out.remove(WORK)
    _pieces.cache_clear()
    return manifest.read(out)


def begin(settings: Settings, out: Place) -> dict[str, Any]:
    """Cut the source into pieces and write them down, or check that they are those written down before.

    Raises: as `ingest` does.
    """
    source: Source = open_source(settings.spec)
    buckets.table(settings.buckets, settings.side_px)
    layouts.layout(settings.spec.layout)
    lines = [json.dumps(piece, ensure_ascii=False) for piece in source.pieces()]
    text = "\n".join(lines) + "\n"
    told = {"source": asdict(settings), "pieces_sha256": sha256_text(text)}
    for name in (PROVENANCE, _PLAN):
        if out.exists(name):
            _compare(json.loads(out.read(name)), told, out)
    if not out.exists(PROVENANCE) and not out.exists(_PLAN):
        if any(True for _ in out.files()):
            raise OutputExistsError(
                f"{out.root} is there and not empty. Give another --out, or remove it first."
            )
        out.write(_PIECES, text.encode())
        out.write(_PLAN, (json.dumps(told, indent=2) + "\n").encode())
    return told


def samples_of(settings: Settings, out: Place) -> int:
    """How many samples there are to look at, as far as known before; 0 when all is done."""
    if not out.exists(_PLAN):
        return 0
    work = Looking(out, settings)
    return sum(work.size(shard) for shard in work.shards())


def _compare(before: dict[str, Any], now: dict[str, Any], out: Place) -> None:
    if before["source"] != now["source"]:
        old, new = _flat(before["source"]), _flat(now["source"])
        name = next(name for name in new if old.get(name) != new[name])
        raise OutputExistsError(
            f"{out.root} was made with {name} = {old.get(name)!r}, not {new[name]!r}. A manifest is never"
            " changed: give another --out."
        )
    if before["pieces_sha256"] != now["pieces_sha256"]:
        raise OutputExistsError(
            f"The source has changed since {out.root} was begun: files were added, removed or resized, or"
            " captions changed. A manifest is never changed: give another --out."
        )


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    return {**tree["spec"], **{name: value for name, value in tree.items() if name != "spec"}}


def row_of(found: Found, settings: Settings, table: Sequence[buckets.Size]) -> dict[str, Any]:
    """The manifest's row of one sample, as far as it can be told from the sample alone."""
    row: dict[str, Any] = {
        "id": hashlib.blake2b(found.data, digest_size=16).hexdigest() if found.data else "",
        "key": found.key, "locator": found.locator, "n_bytes": len(found.data), "width": 0, "height": 0,
        "bucket": "", "resized_width": 0, "resized_height": 0, "left": 0, "top": 0, "flags": [],
        "status": ACCEPTED, "reason": "", "detail": "", "same_as": "", "grid": _NOTHING,
    }  # fmt: skip
    words = layouts.layout(settings.spec.layout)(found.fields, settings.spec.caption_column)
    row |= {**words.scores, "caption": words.caption, "caption_hash": caption_hash(words.caption)}
    try:
        if found.trouble is not None:
            raise pictures.Unfit(*found.trouble)
        seen = pictures.look(found.data)
        row |= {"width": seen.size[0], "height": seen.size[1], "flags": [*words.flags, *seen.flags]}
        row |= _placed(seen.size, settings, table) | {"grid": seen.grid}
        if words.unfit:
            raise pictures.Unfit(words.unfit, "as the fields beside it say")
        if not words.caption:
            raise pictures.Unfit("no caption", "none is there, or it is empty")
    except pictures.Unfit as unfit:
        row |= {"status": QUARANTINED, "reason": unfit.reason, "detail": unfit.detail}
    return row


def caption_hash(caption: str) -> str:
    """The name of a caption: 32 hex digits of its SHA-256; "" for none."""
    return sha256_text(caption)[:32] if caption else ""


def _placed(size: buckets.Size, settings: Settings, table: Sequence[buckets.Size]) -> dict[str, Any]:
    if min(size) < settings.least_px:
        raise pictures.Unfit("too small", f"{size[0]} x {size[1]}, less than {settings.least_px} px")
    fit = buckets.fit(size, table)
    if fit.lost > buckets.LARGEST_LOSS:
        raise pictures.Unfit("extreme aspect", f"{size[0]} x {size[1]}: {fit.lost:.0%} would be cut off")
    return {
        "bucket": buckets.named(fit.bucket), "resized_width": fit.resized[0],
        "resized_height": fit.resized[1], "left": fit.left, "top": fit.top,
    }  # fmt: skip


def settle(settings: Settings, out: Place) -> None:
    """Join what the workers found, mark duplicates, write captions and manifest."""
    names = [_rows_name(shard) for shard in Looking(out, settings).shards()]
    rows = with_duplicates(pa.concat_tables(manifest.parsed(out, name) for name in names), near=settings.near)
    if not rows.num_rows:
        raise DataError(f"{settings.spec.root} yields no samples. Check the source, its split and its files.")
    manifest.write(out, rows)


def with_duplicates(rows: pa.Table, *, near: bool) -> pa.Table:
    """The rows with later copies of a file, and files that show the same picture, marked."""
    everything = np.arange(rows.num_rows)
    same_as, alike = everything.copy(), np.zeros(rows.num_rows, bool)
    fit = np.flatnonzero(pc.equal(rows["status"], ACCEPTED).to_numpy())
    samples = _samples(rows.select(["id", "width", "height", "grid"]).take(pa.array(fit)))
    rows = rows.drop_columns(["grid"])
    first = duplicates.exact(samples)
    same_as[fit] = fit[first]
    if near:
        left = np.flatnonzero(first == np.arange(len(fit)))
        better = duplicates.near(samples, left)
        same_as[fit[left]] = fit[left[better]]
        alike[fit[left]] = better != np.arange(len(left))
        same_as = same_as[same_as]
    marked, alike_too = pa.array(same_as != everything), pa.array(alike)
    columns = {
        "status": pc.if_else(marked, DUPLICATE, rows["status"]),
        "reason": pc.if_else(
            alike_too, "near duplicate", pc.if_else(marked, "exact duplicate", rows["reason"])
        ),
        "detail": pc.if_else(
            alike_too, "the same picture", pc.if_else(marked, "the same file", rows["detail"])
        ),
        "same_as": pc.if_else(marked, rows["key"].take(pa.array(same_as)), ""),
    }
    for name, column in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def _samples(rows: pa.Table) -> duplicates.Samples:
    """Arrow's own memory as arrays: a million rows would be gigabytes as Python's objects."""
    n = rows.num_rows
    ids, grids = (rows[name].combine_chunks() for name in ("id", "grid"))
    assert not n or (ids.offset == grids.offset == 0), "a column that was just taken begins in the middle"
    return duplicates.Samples(
        np.frombuffer(ids.buffers()[2] or b"", "S32", n),
        rows["width"].to_numpy(),
        rows["height"].to_numpy(),
        np.frombuffer(grids.buffers()[1] or b"", np.uint8, n * len(_NOTHING)).reshape(n, len(_NOTHING)),
    )


def _rows_name(shard: str) -> str:
    return f"{WORK}/rows/{shard}.parquet"


@lru_cache(maxsize=1)
def _pieces(out: Place) -> list[Piece]:
    return [json.loads(line) for line in out.read(_PIECES).decode().splitlines()]
