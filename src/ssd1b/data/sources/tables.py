"""Parquet tables with the pictures' bytes in a column: plain bytes, or Hugging Face's {bytes, path}.

One row group a piece. Knows pyarrow; the columns are found by their usual names if they are not given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ssd1b.base.errors import DamagedFileError, DataError
from ssd1b.data import captions
from ssd1b.data.layouts import CAPTIONS
from ssd1b.data.places import Place
from ssd1b.data.sources import Found, Piece, Spec

IMAGES = ("image", "jpg", "png", "webp", "image_bytes", "bytes", "img")
"""Names that the column of pictures usually has."""


class Tables:
    """See the module."""

    streams = False

    def __init__(self, spec: Spec) -> None:
        """Only remember what is meant; a root that ends in .parquet is this one table."""
        folder, _, name = spec.root.rpartition("/")
        self.only = name if spec.root.endswith(".parquet") else ""
        self.spec, self.place = spec, Place(folder or "." if self.only else spec.root)

    def pieces(self) -> Sequence[Piece]:
        """One for each row group of each table, sorted by name."""
        names = [name for name, _ in self.place.files() if name.endswith(".parquet")]
        if self.only:
            names = [name for name in names if name == self.only]
        if not names:
            raise DataError(f"There are no .parquet tables in {self.spec.root}. Check the path.")
        pieces: list[Piece] = []
        for name in names:
            with _table(self.place, name) as table:
                self._columns(table.schema_arrow, name)
                for group in range(table.num_row_groups):
                    rows = table.metadata.row_group(group).num_rows
                    pieces.append({"rows": rows, "table": name, "group": group})
        return pieces

    def samples(self, piece: Piece) -> Iterator[Found]:
        """The rows of a row group."""
        name, group = str(piece["table"]), int(piece["group"])
        with _table(self.place, name) as table:
            image, _ = self._columns(table.schema_arrow, name)
            rows = table.read_row_group(group).to_pylist()
        for number, row in enumerate(rows):
            data = _bytes(row.pop(image))
            key = f"{name}:{group}:{number}"
            trouble = None if data is not None else ("missing", f"'{image}' is empty")
            yield Found(key, f"{name}|{group}|{number}", data or b"", row, trouble)

    def read(self, locator: str) -> bytes:
        """The picture of (table, row group, row)."""
        name, group, number = locator.rsplit("|", 2)
        data = _bytes(_pictures(self.place, name, int(group), self.spec.image_column)[int(number)])
        assert data is not None, f"{locator} has no picture, and was accepted"
        return data

    def _columns(self, schema: pa.Schema, name: str) -> tuple[str, str]:
        columns = dict.fromkeys(schema.names)
        image = captions.pick(columns, self.spec.image_column, IMAGES, name, "pictures")
        kind = schema.field(image).type
        if not (pa.types.is_struct(kind) or _is_bytes(kind)):
            raise DataError(
                f"{name}: column '{image}' holds {kind}, not the bytes of pictures. A table of links is"
                " fetched with img2dataset first, see docs/data.md."
            )
        asked = self.spec.caption_column
        usual = CAPTIONS if self.spec.layout != "midjourney" else (*CAPTIONS, "Content")
        return image, captions.pick(columns, asked, usual, name, "captions")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _bytes(cell: Any) -> bytes | None:  # noqa: ANN401 - a cell of any table
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    return data if isinstance(data, bytes) else None


@contextmanager
def _table(place: Place, name: str) -> Iterator[pq.ParquetFile]:
    with place.opened(name) as file:
        try:
            yield pq.ParquetFile(file)
        except pa.ArrowException as error:
            raise DamagedFileError(
                f"{name} in {place.root} is damaged ({error}). Fetch it again or take it out of the folder."
            ) from error


@lru_cache(maxsize=2)
def _pictures(place: Place, name: str, group: int, column: str) -> list[Any]:
    """The pictures of one row group: neighbours are usually asked for next."""
    with _table(place, name) as table:
        image = captions.pick(dict.fromkeys(table.schema_arrow.names), column, IMAGES, name, "pictures")
        cells: list[Any] = table.read_row_group(group, columns=[image]).column(0).to_pylist()
        return cells
