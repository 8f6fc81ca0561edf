"""WebDataset archives: plain tar files in which files of one name but for the suffix are one sample.

Read with Python's own tarfile, one archive a piece; a sample is located by its place in the archive, so it is
read again without what comes before. This is what img2dataset writes.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from ssd1b.base.errors import DataError
from ssd1b.data.captions import Fields
from ssd1b.data.places import Place
from ssd1b.data.sources import Found, Piece, Spec
from ssd1b.data.sources.folder import is_picture

Member = tuple[str, int, int]  # name, offset and bytes of its content


class Archives:
    """See the module."""

    streams = False

    def __init__(self, spec: Spec) -> None:
        """Only remember what is meant; a root that ends in .tar is this one archive."""
        folder, _, name = spec.root.rpartition("/")
        self.only = name if spec.root.endswith(".tar") else ""
        self.spec, self.place = spec, Place(folder or "." if self.only else spec.root)

    def pieces(self) -> Sequence[Piece]:
        """One for each archive, sorted by name."""
        files = [(name, size) for name, size in self.place.files() if name.endswith(".tar")]
        if self.only:
            files = [each for each in files if each[0] == self.only]
        if not files:
            raise DataError(f"There are no .tar archives in {self.spec.root}. Check the path.")
        return [{"rows": 0, "archive": name, "bytes": size} for name, size in files]

    def samples(self, piece: Piece) -> Iterator[Found]:
        """The samples as they lie in the archive; one that is cut short ends with a sample that says so."""
        archive, size = str(piece["archive"]), int(piece["bytes"])
        with self.place.opened(archive) as file:
            group: dict[str, Member] = {}
            stem = ""
            for member in _members(file, size):
                start = _stem(member[0]) if member[1] >= 0 else ""
                if group and start != stem:
                    yield self._sample(archive, stem, group, file)
                    group = {}
                if member[1] < 0:
                    trouble = ("truncated", f"{archive} ends in the middle of {member[0] or 'a file'}")
                    yield Found(f"{archive}:{member[0] or 'end'}", "", b"", {}, trouble)
                    return
                stem = start
                group[member[0][len(stem) + 1 :].lower()] = member
            if group:
                yield self._sample(archive, stem, group, file)

    def read(self, locator: str) -> bytes:
        """Bytes at (archive, offset, length)."""
        return read_member(self.place, locator)

    def _sample(self, archive: str, stem: str, group: Mapping[str, Member], file: BinaryIO) -> Found:
        key = f"{archive}:{stem}"
        picture = next((group[suffix] for suffix in group if is_picture(f"x.{suffix}")), None)
        fields, trouble = _fields(group, file)
        if picture is None:
            return Found(key, "", b"", fields, ("missing", f"no picture among {', '.join(group)}"))
        _, offset, size = picture
        return Found(key, f"{archive}|{offset}|{size}", _content(file, picture), fields, trouble)


def read_member(place: Place, locator: str) -> bytes:
    """The bytes of one file in an archive: "archive|offset|bytes"."""
    archive, offset, size = locator.rsplit("|", 2)
    return place.read_part(archive, int(offset), int(size))


def _members(file: BinaryIO, size: int) -> Iterator[Member]:
    """Every file in an archive; an offset of -1 says that the archive ends before this one does."""
    name = ""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                name = info.name
                if not info.isfile():
                    continue
                if info.offset_data + info.size > size:
                    yield info.name, -1, 0
                    return
                yield info.name, info.offset_data, info.size
            # The end of an archive is two blocks of zeros; without them it was cut between two files.
            if archive.offset + tarfile.BLOCKSIZE > size:
                yield "", -1, 0
    except tarfile.ReadError:
        yield name, -1, 0


def _fields(group: Mapping[str, Member], file: BinaryIO) -> tuple[Fields, tuple[str, str] | None]:
    """What the .json and the .txt of a sample say, and what is wrong with them."""
    fields: Fields = {}
    try:
        if "json" in group:
            told = json.loads(_content(file, group["json"]).decode("utf-8-sig"))
            fields |= told if isinstance(told, dict) else {}
        for suffix in ("txt", "caption"):
            if suffix in group:
                fields.setdefault("txt", _content(file, group[suffix]).decode("utf-8-sig"))
    except ValueError as error:
        return fields, ("broken caption", f"not JSON in UTF-8: {error}")
    return fields, None


def _content(file: BinaryIO, member: Member) -> bytes:
    file.seek(member[1])
    return file.read(member[2])


def _stem(name: str) -> str:
    """Up to the first dot of the file's own name, folders included: WebDataset's rule."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]
