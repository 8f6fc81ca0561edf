"""Picture files that carry the request that made them: losslessly for us, as A1111 writes it for others.

PNG holds both as text chunks, JPEG and WebP as an EXIF comment and an XMP packet. Does not know models or how
pictures are made.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

import ssd1b
from ssd1b.base.errors import DamagedFileError, RequestError
from ssd1b.base.files import write_atomic
from ssd1b.generate.canvas import opened
from ssd1b.generate.infotext import parameters
from ssd1b.generate.request import Request, request_of

CHUNK = "ssd1b"
PARAMETERS = "parameters"
SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
JPEG_QUALITY = 95
_FORMAT = 2
_PLAIN_UNTIL = 1  # pictures of this format were made before prompts had weights
_NAMESPACE = "urn:ssd1b:request"
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    f'<rdf:Description rdf:about="" xmlns:ssd1b="{_NAMESPACE}"><ssd1b:record>%s</ssd1b:record>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
_IN_XMP = re.compile(rb"<ssd1b:record>([^<]*)</ssd1b:record>")
_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # JSON that XML lets pass as it stands


def picture_bytes(image: Image.Image, request: Request, suffix: str = ".png", **facts: object) -> bytes:
    """Encode a picture with its request; the same picture and request give the same bytes.

    PNG and WebP without loss, JPEG at quality 95 with full colour. `facts` go beside the request: "engine",
    and of a sheet "pictures", how many it has (the request is then that of the first).

    Raises:
        RequestError: a JPEG cannot hold a request as long as this one.
    """
    kind = SUFFIXES[suffix.lower()]
    record = {"format": _FORMAT, "version": ssd1b.__version__, **facts, "request": request.model_dump()}
    written = json.dumps(record)
    buffer = io.BytesIO()
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text(PARAMETERS, parameters(request))
        info.add_itxt(CHUNK, written)
        image.save(buffer, kind, pnginfo=info)
        return buffer.getvalue()
    how = {"lossless": True} if kind == "WEBP" else {"quality": JPEG_QUALITY, "subsampling": "4:4:4"}
    for letter, code in _ESCAPED.items():
        written = written.replace(letter, code)
    try:
        image.save(buffer, kind, exif=_comment(parameters(request)), xmp=(_XMP % written).encode(), **how)
    except ValueError as error:  # "EXIF data is too long", "XMP data is too long"
        raise RequestError(
            f"A {kind} cannot hold a request as long as this one ({error}). Write a PNG."
        ) from error
    return buffer.getvalue()


def refuse_too_long(request: Request, suffix: str) -> None:
    """Say so before a picture is made whose file could not hold the request.

    Raises:
        RequestError: as `picture_bytes` would say later.
    """
    if SUFFIXES[suffix.lower()] == "JPEG":
        picture_bytes(
            Image.new("RGB", (8, 8)), request, suffix, engine="a name of some length", pictures=10_000
        )


def read_request(path: Path) -> Request:
    """Read the request back out of a file written by `picture_bytes`.

    Raises:
        MissingFileError: no such file.
        DamagedFileError: not a picture, or one without our JSON.
        RequestError: the request does not validate, or the picture is too large to be looked at.
    """
    return read_record(path)[0]


def read_record(path: Path) -> tuple[Request, dict[str, object]]:
    """As `read_request`, and what else was written: "version" and the facts."""
    with opened(path) as image:
        written = _written(image.info)
    try:
        record = json.loads(written) if written is not None else None
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"The request in {path} is not JSON ({error}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("request"), dict):
        raise DamagedFileError(
            f"{path} carries no request of ssd1b; it was made or re-saved by another program."
        )
    fields = record.pop("request")
    if record.get("format") == _PLAIN_UNTIL:
        fields = {"syntax": "plain", **fields}
    return request_of(fields), record


def file_name(request: Request, word: str = "", suffix: str = ".png") -> str:
    """Name a picture after the start of its prompt and its seed, e.g. "a-fox-flat-style-7.png"."""
    return f"{_slug(request.prompt) or 'picture'}-{_slug(word) or request.seed}{suffix}"


def save(data: bytes, path: Path) -> Path:
    """Write a picture, never over another one: to `name-2.png` if `name.png` holds something else."""
    free, number = path, 1
    while free.exists() and free.read_bytes() != data:
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    if not free.exists():
        write_atomic(free, data)
    return free


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48].strip("-")


def _comment(text: str) -> Image.Exif:
    """EXIF with a user comment, in UTF-16 as A1111 writes it."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + text.encode("utf-16-be")
    return exif


def _written(info: Mapping[Any, Any]) -> str | None:
    """Our JSON in a PNG's chunk or another picture's XMP packet."""
    if CHUNK in info:
        return str(info[CHUNK])
    packet = info.get("xmp")
    found = _IN_XMP.search(packet) if isinstance(packet, bytes) else None
    return found[1].decode(errors="replace") if found else None
