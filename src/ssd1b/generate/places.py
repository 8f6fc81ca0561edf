"""Where the pictures of a run go: files named after prompt and seed, or exactly where they were asked for.

Does not know how a picture is made, nor who asked for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ssd1b.generate.axes import Axis
from ssd1b.generate.picture import SUFFIXES, file_name, picture_bytes, refuse_too_long, save
from ssd1b.generate.request import Request
from ssd1b.generate.sheet import contact_sheet, labelled


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files go: into a folder under names of their own, or (a single one) exactly where asked."""

    out: Path
    first: Request
    single: bool
    suffix: str = ".png"
    axes: Sequence[Axis] = ()
    engine: str = "torch"

    def save(self, image: Image.Image, request: Request) -> Path:
        """Write one picture."""
        varied = "".join(f" {axis.field} {getattr(request, axis.field)}" for axis in self.axes)
        word = f"{request.seed}{varied}"
        path = self._path(file_name(request, word, self.suffix), word.replace(" ", "-"))
        return save(picture_bytes(image, request, path.suffix, engine=self.engine), path)

    def refuse_what_no_file_holds(self, requests: Sequence[Request]) -> None:
        """Before anything is drawn: a JPEG has little room for a request."""
        suffix = self._path(f"picture{self.suffix}", "").suffix
        for request in requests:
            refuse_too_long(request, suffix)

    def save_sheet(self, images: Sequence[Image.Image]) -> Path:
        """Write the contact sheet or labelled grid of all pictures; it carries the first one's request."""
        if self.axes:
            down = self.axes[1].labels() if len(self.axes) > 1 else [""]
            sheet = labelled(images, self.axes[0].labels(), down)
        else:
            sheet = contact_sheet(images)
        path = self._path(file_name(self.first, "grid", self.suffix), "grid")
        facts = {"engine": self.engine, "pictures": len(images)}
        return save(picture_bytes(sheet, self.first, path.suffix, **facts), path)

    def _path(self, own_name: str, word: str) -> Path:
        if self.out.suffix.lower() not in SUFFIXES:
            return self.out / own_name
        return self.out if self.single else self.out.with_stem(f"{self.out.stem}-{word}")
