"""Datasets by the `datasets` library: of the Hugging Face hub, or a local folder that it can read.

Streamed, one of the dataset's own shards a piece, pictures undecoded. What is streamed cannot be read again
by its place, so ingestion keeps the pictures in archives beside the manifest. The only file that knows
`datasets`, an extra.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ssd1b.base.errors import DataError
from ssd1b.data import captions, needed
from ssd1b.data.layouts import CAPTIONS
from ssd1b.data.sources import Found, Piece, Spec
from ssd1b.data.sources.tables import IMAGES


class Hub:
    """See the module. `root` is a dataset's name, or "builder:path" for local files ("parquet:folder")."""

    streams = True

    def __init__(self, spec: Spec) -> None:
        """Only remember what is meant."""
        self.spec = spec

    def pieces(self) -> Sequence[Piece]:
        """One for each shard of the dataset."""
        shards = int(self._dataset().num_shards)
        return [{"rows": 0, "shard": shard, "shards": shards} for shard in range(shards)]

    def samples(self, piece: Piece) -> Iterator[Found]:
        """The rows of a shard."""
        dataset = self._dataset()
        image = self._image(dataset)
        shard, shards = int(piece["shard"]), int(piece["shards"])
        for number, row in enumerate(dataset.shard(num_shards=shards, index=shard)):
            cell = dict(row).pop(image)
            data = _bytes(cell)
            fields = {name: value for name, value in row.items() if name != image}
            trouble = None if data is not None else ("missing", f"'{image}' is empty")
            yield Found(f"{self.spec.root}:{shard}:{number}", "", data or b"", fields, trouble)

    def read(self, locator: str) -> bytes:
        """Never asked: pictures of a stream are kept and read from there."""
        raise AssertionError(f"a stream cannot be read again at {locator!r}")

    def _dataset(self) -> Any:  # noqa: ANN401 - datasets has no types of use here
        """The stream, its pictures undecoded: one that cannot be decoded must not end it."""
        needed("datasets")
        import datasets

        builder, _, path = self.spec.root.partition(":")
        try:
            if path:
                found = {"data_files": _files(path)} if builder == "parquet" else {"data_dir": path}
                dataset = datasets.load_dataset(builder, split=self.spec.split, streaming=True, **found)
            else:
                dataset = datasets.load_dataset(
                    builder, split=self.spec.split, streaming=True, revision=self.spec.revision or None
                )
        except (FileNotFoundError, ValueError, ConnectionError) as error:
            raise DataError(
                f"The dataset '{self.spec.root}' ({self.spec.split}) cannot be opened: {error}. Check"
                " its name, its split and the network."
            ) from error
        return dataset.cast_column(self._image(dataset), datasets.Image(decode=False))

    def _image(self, dataset: Any) -> str:  # noqa: ANN401
        columns = dict.fromkeys(dataset.column_names or ())
        where = f"{self.spec.root} ({self.spec.split})"
        captions.pick(columns, self.spec.caption_column, (*CAPTIONS, "Content"), where, "captions")
        return captions.pick(columns, self.spec.image_column, IMAGES, where, "pictures")


def _files(path: str) -> list[str]:
    return sorted(str(file) for file in Path(path).rglob("*.parquet")) or [path]


def _bytes(cell: Any) -> bytes | None:  # noqa: ANN401
    if not isinstance(cell, dict):
        return None
    if isinstance(cell.get("bytes"), bytes):
        return bytes(cell["bytes"])
    path = cell.get("path")
    return Path(path).read_bytes() if path and Path(path).is_file() else None
