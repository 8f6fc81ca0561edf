"""Where pictures come from: folders, WebDataset archives, parquet tables, Hugging Face datasets.

A source is cut into pieces in a fixed order; a piece yields its samples in a fixed order, and any sample's
bytes can be read again by its locator. A source that only streams cannot do that: its pictures are kept in
archives beside the manifest. Does not know what is done with the pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ssd1b.base.errors import DataError, did_you_mean
from ssd1b.data.places import Place

Piece = dict[str, Any]
"""A part of a source that one worker reads: plain JSON, with "rows", the number of samples (0: not known)."""
KINDS = ("folder", "webdataset", "parquet", "hub")


@dataclass(frozen=True, slots=True)
class Spec:
    """A source as the user names it. `kind` is one of KINDS; `root` a path, a URL or a dataset's name."""

    kind: str
    root: str
    layout: str = "plain"
    captions: str = ""
    image_column: str = ""
    caption_column: str = ""
    split: str = "train"
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """One sample. `key` is its name in the source; `trouble` (reason, detail) says why there are no bytes."""

    key: str
    locator: str
    data: bytes
    fields: Mapping[str, object] = field(default_factory=dict)
    trouble: tuple[str, str] | None = None


class Source(Protocol):
    """Pictures with the fields that stand beside them."""

    streams: bool
    """Whether bytes cannot be read again by a locator."""

    def pieces(self) -> Sequence[Piece]:
        """All pieces, in order.

        Raises:
            DataError: there are no pictures, or captions or columns are not as asked.
        """
        ...

    def samples(self, piece: Piece) -> Iterator[Found]:
        """The samples of a piece, in order."""
        ...

    def read(self, locator: str) -> bytes:
        """A sample's bytes again."""
        ...


def open_source(spec: Spec) -> Source:
    """The source that is meant.

    Raises:
        DataError: no kind of source has this name, or a package it needs is not installed.
    """
    from ssd1b.data.sources.archives import Archives
    from ssd1b.data.sources.folder import Folder
    from ssd1b.data.sources.hub import Hub
    from ssd1b.data.sources.tables import Tables

    kinds: dict[str, type[Folder] | type[Archives] | type[Tables] | type[Hub]]
    kinds = {"folder": Folder, "webdataset": Archives, "parquet": Tables, "hub": Hub}
    if spec.kind not in kinds:
        hint = did_you_mean(spec.kind, kinds) or f" There are: auto, {', '.join(kinds)}."
        raise DataError(f"No kind of source is called '{spec.kind}'.{hint}")
    return kinds[spec.kind](spec)


def guess(root: str) -> str:
    """What kind of source a place is, by the files in it.

    Raises:
        DataError: it is not there, or holds nothing that is known.
    """
    place = Place(root)
    if not place.exists():
        raise DataError(
            f"There is nothing at {root}. Check the path; a dataset of the hub needs --source hub."
        )
    from ssd1b.data.sources.folder import is_picture

    for name, _ in place.files():
        if name.endswith(".tar"):
            return "webdataset"
        if name.endswith(".parquet"):
            return "parquet"
        if is_picture(name):
            return "folder"
    raise DataError(f"{root} holds no pictures, .tar archives or .parquet tables. Check the path.")
