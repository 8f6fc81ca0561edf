"""One picture's bytes: whether they are fit for training, and the pixels that training sees.

    cut short, undecodable, more than LARGEST_PX pixels, several frames      refused, with the reason
    turned by EXIF, CMYK, another colour profile, 16 bits, transparent       put right, with a flag

A flag says what was done: turned upright; converted to sRGB by the embedded profile where there is one;
scaled to 8 bits; laid on white. Does not know files, buckets' tables or captions.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps

from ssd1b.data.buckets import Fit

PREPROCESS_VERSION = 1
"""Raise when the pixels of a picture change: it is part of every cache's key."""
LARGEST_PX = 128 * 1024 * 1024
GRID = 8
_ORIENTATION = 0x0112
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "GIF": b"\x3b"}


class Unfit(Exception):
    """A picture that is not trained on: `reason` in a word or two, `detail` for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture is: upright (width, height) in pixels, flags, and 8 x 8 x 3 mean colours in bytes."""

    size: tuple[int, int]
    flags: tuple[str, ...]
    grid: bytes


def look(data: bytes) -> Look:
    """Decode a picture completely and say what it is.

    Raises:
        Unfit: it cannot be trained on.
    """
    image, flags = upright_rgb(data)
    if data.startswith(b"\x89PNG"):
        _check_sums(data)
    small = image.resize((GRID, GRID), Image.Resampling.BOX, reducing_gap=8.0)
    return Look(image.size, flags, small.tobytes())


def prepared(data: bytes, how: Fit) -> np.ndarray:
    """The pixels of a bucket, uint8, height x width x 3: resized (Lanczos), then cut.

    Raises:
        Unfit: it cannot be decoded.
    """
    image, _ = upright_rgb(data)
    if image.size != how.resized:
        image = image.resize(how.resized, Image.Resampling.LANCZOS)
    (width, height), left, top = how.bucket, how.left, how.top
    return np.asarray(image.crop((left, top, left + width, top + height)))


def upright_rgb(data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """The whole picture as 8-bit RGB, the way up it is meant, and what was done to it.

    Raises:
        Unfit: cut short, undecodable, too many pixels, or several frames.
    """
    with _pillow_alone():
        image = _opened(data)
        try:
            image.load()
            return _put_right(image, data)
        # What Pillow raises on damaged files is no closed list: OSError, SyntaxError, struct.error, ...
        except Exception as error:
            raise _verdict(data, image.format, error) from error


def _opened(data: bytes) -> Image.Image:
    if not data:
        raise Unfit("undecodable", "the file is empty")
    try:
        image = Image.open(io.BytesIO(data))
    except Exception as error:  # see above
        raise _verdict(data, _format_of(data), error) from error
    width, height = image.size
    if width * height > LARGEST_PX:
        raise Unfit("too many pixels", f"{width} x {height}; it was not decoded")
    if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photo and its previews
        raise Unfit("animated", f"{getattr(image, 'n_frames', 2)} frames")
    return image


def _put_right(image: Image.Image, data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    flags = []
    if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        image = ImageOps.exif_transpose(image)
        flags.append("turned")
    if image.mode == "CMYK":
        flags.append("cmyk")
    if image.mode in _SIXTEEN or _png_depth(data) == 16:
        flags.append("16-bit")
    if image.mode in _SIXTEEN:
        image = Image.fromarray((np.asarray(image).astype(np.uint32) * 255 // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a channel")
    if image.mode in ("RGB", "CMYK") and (profile := image.info.get("icc_profile")):
        converted = _to_srgb(image, profile)
        if converted is not None:
            image = converted
            flags.append("profile")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        if layered.getchannel("A").getextrema()[0] != 255:
            ground = Image.new("RGBA", layered.size, "white")
            image = Image.alpha_composite(ground, layered)
            flags.append("transparent")
    return image if image.mode == "RGB" else image.convert("RGB"), tuple(flags)


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """Colours by the embedded profile; None where it is sRGB already or cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (OSError, ImageCms.PyCMSError, ValueError, TypeError):
        return None


def _verdict(data: bytes, kind: str | None, error: Exception) -> Unfit:
    if isinstance(error, Unfit):
        return error
    detail = f"{kind or 'no known format'}: {' '.join(str(error).split()) or type(error).__name__}"
    detail = detail.split(" <_io")[0].removesuffix(" cannot identify image file")
    return Unfit("truncated" if _is_cut_short(data, kind) else "undecodable", detail)


def _is_cut_short(data: bytes, kind: str | None) -> bool:
    """Whether the bytes begin as a known format and do not end as it does."""
    if kind == "WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if kind == "PNG":
        return b"IEND" not in data[-64:]
    return kind in _ENDS and not data.rstrip(b"\0\r\n ").endswith(_ENDS[kind])


def _format_of(data: bytes) -> str | None:
    """The format by its first bytes, where Pillow gave up on the header."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    starts = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF"}
    return next((name for start, name in starts.items() if data.startswith(start)), None)


def _check_sums(data: bytes) -> None:
    """Compare the checksums of a PNG: Pillow does not, and some damage still decodes to a picture."""
    view, at = memoryview(data), 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        told = int.from_bytes(view[end - 4 : end], "big")
        if end <= len(data) and zlib.crc32(view[at + 4 : end - 4]) != told:
            name = bytes(view[at + 4 : at + 8]).decode("ascii", "replace")
            raise Unfit("undecodable", f"PNG: the checksum of its {name} is wrong")
        at = end


def _png_depth(data: bytes) -> int:
    """Bits a channel of a PNG, else 0: Pillow opens 16-bit colour as 8-bit without a word."""
    return data[24] if data.startswith(b"\x89PNG") and len(data) > 24 else 0


@contextmanager
def _pillow_alone() -> Iterator[None]:
    """Without Pillow's own limit of pixels (ours is checked before decoding) and its remarks on odd files."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
