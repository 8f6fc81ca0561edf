"""A folder of pictures with captions in a caption file, or in a .txt beside each picture.

Subfolders count. Without captions named, metadata.jsonl, captions.jsonl, metadata.csv or captions.csv is
taken if it lies at the top. Knows no picture formats beyond their suffixes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from ssd1b.base.errors import DataError, MissingFileError
from ssd1b.data import captions
from ssd1b.data.places import Place
from ssd1b.data.sources import Found, Piece, Spec

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)
PIECE = 256


def is_picture(name: str) -> bool:
    """Whether a file's suffix is one of a picture."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


class Folder:
    """See the module."""

    streams = False

    def __init__(self, spec: Spec) -> None:
        """Only remember what is meant; nothing is read yet."""
        self.spec, self.place = spec, Place(spec.root)

    def pieces(self) -> Sequence[Piece]:
        """Sorted by name, `PIECE` files each; the fields of a caption file travel with them."""
        files = dict(self.place.files())
        names = [name for name in files if is_picture(name)]
        if not names:
            raise DataError(f"There are no pictures in {self.spec.root}. Check the path.")
        table = self._table(files)
        samples = [[name, files[name], *self._beside(name, files, table)] for name in names]
        unseen = {name: fields for name, fields in (table or {}).items() if name not in files}
        samples += [[name, -1, None, fields] for name, fields in unseen.items()]
        samples.sort(key=lambda sample: str(sample[0]))
        cut = range(0, len(samples), PIECE)
        return [{"rows": len(part), "samples": part} for part in (samples[n : n + PIECE] for n in cut)]

    def samples(self, piece: Piece) -> Iterator[Found]:
        """Each file with its caption."""
        for name, _, text, fields in piece["samples"]:
            yield self._sample(name, text, fields)

    def read(self, locator: str) -> bytes:
        """A file's bytes."""
        return self.place.read(locator)

    def _table(self, files: Mapping[str, int]) -> Mapping[str, captions.Fields] | None:
        name = self.spec.captions or next((usual for usual in captions.USUAL if usual in files), "")
        if not name:
            return None
        if name not in files:
            raise DataError(f"There is no caption file {name} in {self.spec.root}. Check --captions.")
        wanted = self.spec.layout == "plain"
        return captions.read(self.place, name, column=self.spec.caption_column, any_caption=wanted)

    @staticmethod
    def _beside(
        name: str, files: Mapping[str, int], table: Mapping[str, captions.Fields] | None
    ) -> tuple[str | None, captions.Fields]:
        """(the .txt of a picture, the fields of its line): one of the two, or neither."""
        if table is not None:
            return None, table.get(name, {})
        text = str(PurePosixPath(name).with_suffix(".txt"))
        return (text if text in files else None), {}

    def _sample(self, name: str, text: str | None, fields: captions.Fields) -> Found:
        try:
            data = self.place.read(name)
        except MissingFileError:
            return Found(name, name, b"", fields, ("missing", "its caption is there, the file is not"))
        except OSError as error:
            return Found(name, name, b"", fields, ("unreadable", error.strerror or str(error)))
        if text is not None:
            try:
                fields = {"txt": self.place.read(text).decode("utf-8-sig")}
            except UnicodeDecodeError:
                return Found(name, name, data, {}, ("broken caption", f"{text} is not UTF-8"))
        return Found(name, name, data, fields)
