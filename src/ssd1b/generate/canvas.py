"""What a picture is painted over: a photograph or drawing, and a mask that says where.

Files are read by content, never by name, and measured before they are decoded. A request knows pictures by
the hash of their pixels, so that a copy with other metadata is the same picture. Does not know models,
latents or how pictures are made.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from ssd1b.base.errors import DamagedFileError, MissingFileError, RequestError

MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP")
WHITE_FROM = 128  # a mask's grey from this on is white: paint here
Canvases = Mapping[str, Image.Image]
"""Pictures and masks by their hash, as requests name them."""

NOTHING_GIVEN: Canvases = {}
Source = Path | bytes | Image.Image
"""A picture from outside: a file, a file's bytes, or one that is in memory already."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """A picture (RGB) to start from and, where only a part is to be painted anew, its mask (L)."""

    image: Image.Image
    mask: Image.Image | None = None

    def fields(self) -> dict[str, object]:
        """What a request says of it."""
        mask = "" if self.mask is None else digest_of(self.mask)
        return {"image": digest_of(self.image), "mask": mask}

    def by_digest(self) -> dict[str, Image.Image]:
        """Both, as `pipeline.sample` takes them."""
        return {digest_of(each): each for each in (self.image, self.mask) if each is not None}


def read_canvas(image: Source, mask: Source | None = None) -> Canvas:
    """Read a picture and, if there is one, its mask: white is painted anew, black stays.

    Raises:
        MissingFileError: no such file.
        DamagedFileError: not a PNG, JPEG or WebP, or cut short.
        RequestError: too many pixels, or a mask of another size than its picture.
    """
    picture = _decoded(image, "RGB")
    if mask is None:
        return Canvas(picture)
    grey = _decoded(mask, "L")
    if grey.size != picture.size:
        raise RequestError(
            f"The mask has {grey.width}x{grey.height} pixels and its picture"
            f" {picture.width}x{picture.height}. Give a mask of the picture's own size."
        )
    black_and_white = grey.point([255 * (level >= WHITE_FROM) for level in range(256)])
    if black_and_white.getextrema() == (0, 0):
        raise RequestError("The mask is black all over, so nothing would be painted. White is painted anew.")
    return Canvas(picture, black_and_white)


def digest_of(image: Image.Image) -> str:
    """SHA-256 over mode, size and pixels, 64 hex digits."""
    head = f"{image.mode} {image.width}x{image.height}\n".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale a picture until it covers `size` (width, height), and cut off what sticks out, evenly.

    Colours by Lanczos; a mask takes its nearest pixel, so that it stays black and white.
    """
    if image.size == size:
        return image
    how = Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.LANCZOS
    return ImageOps.fit(image, size, how)


def given(canvases: Canvases, digest: str) -> Image.Image:
    """The picture with this hash.

    Raises:
        RequestError: it was not given, or another one was.
    """
    if digest not in canvases:
        raise RequestError(
            f"The request paints over a picture with the hash {digest[:12]}…, which is not the one that was"
            " given, if any was. Give that picture (--image), and its mask (--mask) if it has one."
        )
    return canvases[digest]


@contextmanager
def opened(source: Path | bytes) -> Iterator[Image.Image]:
    """Open a picture and measure it; nothing is decoded before the caller asks for it.

    Raises:
        MissingFileError, DamagedFileError, RequestError: as in `read_canvas`, also while the caller decodes.
    """
    name = "The picture" if isinstance(source, bytes) else str(source)
    if isinstance(source, Path) and not source.is_file():
        raise MissingFileError(f"There is no picture {source}. Check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise RequestError(
                        f"{name} claims {image.width}x{image.height} pixels; up to {MAX_PIXELS // 10**6}"
                        " million are read. Make it smaller first."
                    )
                yield image
    except Image.DecompressionBombError as error:
        raise RequestError(f"{name} claims far too many pixels and is not read. Make it smaller.") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DamagedFileError(f"{name} cannot be read as a PNG, JPEG or WebP ({error}).") from error


def _decoded(source: Source, mode: str) -> Image.Image:
    if isinstance(source, Image.Image):
        if not (source.width and source.height):
            raise RequestError("The picture has no pixels. Give one of at least one pixel a side.")
        return _upright(source, mode)
    with opened(source) as image:
        return _upright(image, mode)


def _upright(image: Image.Image, mode: str) -> Image.Image:
    """Turned as its metadata says, on white where it is transparent, in one mode."""
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return upright.convert("RGB").convert(mode)
