"""The manifest: one row for each sample that was found, accepted or not, in the order of the source.

    manifest.parquet   the rows; never changed once written
    captions.parquet   each caption once, by its hash

Same source and settings, same bytes, whoever made them. Does not know how rows come about.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssd1b.base.errors import DamagedFileError, MissingFileError
from ssd1b.data.buckets import Fit, sized
from ssd1b.data.places import Place

MANIFEST, CAPTIONS = "manifest.parquet", "captions.parquet"
ACCEPTED, DUPLICATE, QUARANTINED = "accepted", "duplicate", "quarantined"

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # BLAKE2b-128 of the file's bytes, in hex; "" where there are none
        ("key", pa.string()),  # its name in the source
        ("locator", pa.string()),  # where its bytes are read again
        ("n_bytes", pa.int64()),
        ("width", pa.int32()),  # upright, before resizing; 0 where not known
        ("height", pa.int32()),
        ("caption_hash", pa.string()),
        ("bucket", pa.string()),
        ("resized_width", pa.int32()),
        ("resized_height", pa.int32()),
        ("left", pa.int32()),  # of the crop, in the resized picture
        ("top", pa.int32()),
        ("flags", pa.list_(pa.string())),
        ("aesthetic", pa.float32()),
        ("nsfw", pa.float32()),
        ("similarity", pa.float32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("same_as", pa.string()),  # of a duplicate: the key of the one that is kept
    ]
)


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read; `digest` is its file's SHA-256."""

    place: Place
    table: pa.Table
    digest: str

    @cached_property
    def accepted(self) -> pa.Table:
        """The rows to train on, in order."""
        return self.table.filter(pc.equal(self.table["status"], ACCEPTED))

    @cached_property
    def captions(self) -> dict[str, str]:
        """Every caption by its hash."""
        table = parsed(self.place, CAPTIONS)
        return dict(zip(table["hash"].to_pylist(), table["caption"].to_pylist(), strict=True))

    def by_bucket(self) -> dict[str, np.ndarray]:
        """For each bucket the row numbers in `accepted`, in order; largest picture count first."""
        if not self.accepted.num_rows:
            return {}
        coded = self.accepted["bucket"].combine_chunks().dictionary_encode()
        numbers = coded.indices.to_numpy()
        rows = {name: np.flatnonzero(numbers == n) for n, name in enumerate(coded.dictionary.to_pylist())}
        return dict(sorted(rows.items(), key=lambda item: (-len(item[1]), item[0])))

    def chosen(self, status: str = "", reason: str = "") -> pa.Table:
        """The rows of a status and a reason; "" is any."""
        table = self.table
        for name, wanted in (("status", status), ("reason", reason)):
            if wanted:
                table = table.filter(pc.equal(table[name], wanted))
        return table

    def uncaptioned(self) -> int:
        """How many accepted rows name a caption that is not there."""
        return sum(name not in self.captions for name in self.accepted["caption_hash"].to_pylist())

    def counts(self) -> dict[str, object]:
        """How many were accepted, are duplicates, were quarantined, and for which reasons."""
        states, reasons = _tally(self.table["status"]), _tally(self.table["reason"])
        reasons.pop("", None)
        return {
            "found": self.table.num_rows,
            "accepted": states.get(ACCEPTED, 0),
            "duplicates": states.get(DUPLICATE, 0),
            "quarantined": states.get(QUARANTINED, 0),
            "reasons": reasons,
            "flags": _tally(pc.list_flatten(self.accepted["flags"])),
            "buckets": {name: len(rows) for name, rows in self.by_bucket().items()},
        }


def _tally(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value is there, by name."""
    found = {str(each["values"]): int(each["counts"]) for each in pc.value_counts(column).to_pylist()}
    return dict(sorted(found.items()))


def fit_of(row: dict[str, object]) -> Fit:
    """How a row's picture comes to its bucket, as it was decided at ingestion."""
    resized = (int(str(row["resized_width"])), int(str(row["resized_height"])))
    return Fit(sized(str(row["bucket"])), resized, int(str(row["left"])), int(str(row["top"])))


def read(place: Place) -> Manifest:
    """The manifest in a folder.

    Raises:
        MissingFileError: nothing was ingested into it, or ingestion is not finished.
        DamagedFileError: it is not what was written.
    """
    if not place.exists(MANIFEST):
        raise MissingFileError(
            f"There is no {MANIFEST} in {place.root}. Make one: `ssd1b data ingest PICTURES --out"
            f" {place.root}`; the same command goes on where it was stopped."
        )
    data = place.read(MANIFEST)
    return Manifest(place, parsed(place, MANIFEST, data), hashlib.sha256(data).hexdigest())


def parsed(place: Place, name: str, data: bytes | None = None) -> pa.Table:
    """A parquet file of a folder as a table.

    Raises:
        DamagedFileError: it is cut short or no parquet.
    """
    try:
        return pq.read_table(pa.BufferReader(data if data is not None else place.read(name)))
    except pa.ArrowException as error:
        raise DamagedFileError(
            f"{name} in {place.root} is damaged ({error}). Remove the folder and ingest again."
        ) from error


def as_parquet(table: pa.Table) -> bytes:
    """A table as a file's bytes: the same table, the same bytes."""
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", row_group_size=1 << 16)
    return out.getvalue()


def write(place: Place, rows: pa.Table) -> None:
    """Write the captions of rows (columns as in SCHEMA, and "caption"), each once, then the manifest."""
    words = rows.select(["caption_hash", "caption"]).rename_columns(["hash", "caption"]).sort_by("hash")
    names = words["hash"].combine_chunks()
    fresh = pa.concat_arrays([pa.array([True]), pc.not_equal(names[1:], names[:-1])])
    place.write(CAPTIONS, as_parquet(words.filter(fresh)))
    place.write(MANIFEST, as_parquet(rows.select(SCHEMA.names).cast(SCHEMA)))
