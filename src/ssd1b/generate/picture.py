"""PNG files that carry the request that made them: losslessly for us, as A1111 writes it for others.

The text other programs read ("parameters") is flattened so that a prompt cannot pass itself off as
settings; the JSON chunk keeps every character. Does not know models or how pictures are made.
"""

from __future__ import annotations

import io
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

import ssd1b
from ssd1b.base.errors import DamagedFileError, MissingFileError
from ssd1b.base.files import write_atomic
from ssd1b.generate.request import Request, request_of
from ssd1b.generate.schedulers import kind_of

CHUNK = "ssd1b"
PARAMETERS = "parameters"
_FORMAT = 1
_MAX_PIXELS = 64_000_000
_GAP_PX = 4
# What the readers of "parameters" look for at the start of a line.
_LOOKS_LIKE_A_FIELD = re.compile(r"^\s*(negative prompt|steps)\s*:", re.IGNORECASE)


def png_bytes(image: Image.Image, request: Request) -> bytes:
    """Encode a picture with its request; the same picture and request give the same bytes."""
    info = PngImagePlugin.PngInfo()
    info.add_text(PARAMETERS, parameters(request))
    record = {"format": _FORMAT, "version": ssd1b.__version__, "request": request.model_dump()}
    info.add_itxt(CHUNK, json.dumps(record))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_request(path: Path) -> Request:
    """Read the request back out of a PNG written by `png_bytes`.

    Raises:
        MissingFileError: no such file.
        DamagedFileError: not a PNG, or one without our JSON, or with a request that does not validate.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no picture {path}. Check the path.")
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise DamagedFileError(f"{path} claims {image.width}x{image.height} pixels; it is not read.")
            written = image.info.get(CHUNK)
    except (OSError, ValueError, SyntaxError) as error:
        raise DamagedFileError(f"{path} cannot be read as a PNG ({error}).") from error
    try:
        record = json.loads(str(written)) if written is not None else None
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"The request in {path} is not JSON ({error}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("request"), dict):
        raise DamagedFileError(
            f"{path} carries no request of ssd1b; it was made or re-saved by another program."
        )
    return request_of(record["request"])


def parameters(request: Request) -> str:
    """Write the request as A1111 does: prompt, "Negative prompt: ...", one line of "Name: value" pairs.

    Always one line each: line breaks in a prompt become blanks, and a colon that would make the start of the
    prompt look like a field becomes a wide one.
    """
    values = {
        "Steps": request.steps,
        "Sampler": kind_of(request.scheduler).a1111_name,
        "CFG scale": f"{request.guidance:g}",
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Guidance until": f"{request.guidance_until:g}" if request.guidance_until < 1 else "",
        "DeepCache": request.reuse if request.reuse > 1 else "",
        "VAE": _quoted(_one_line(request.decoder)),
        "Model": _quoted(_one_line(Path(request.model).name)),
        "Version": _quoted(f"ssd1b {ssd1b.__version__}"),
    }
    pairs = ", ".join(f"{name}: {value}" for name, value in values.items() if value != "")
    negative = _one_line(request.negative or "")
    return "\n".join(
        [_one_line(request.prompt), *([f"Negative prompt: {negative}"] if negative else []), pairs]
    )


def contact_sheet(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Lay pictures out row by row on white; as square as they allow unless `columns` is given."""
    assert images, "a sheet needs pictures"
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = max(image.width for image in images), max(image.height for image in images)
    size = (columns * (width + _GAP_PX) - _GAP_PX, rows * (height + _GAP_PX) - _GAP_PX)
    sheet = Image.new("RGB", size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * (width + _GAP_PX), row * (height + _GAP_PX)))
    return sheet


def file_name(request: Request, word: str = "") -> str:
    """Name a picture after the start of its prompt and its seed, e.g. "a-fox-flat-style-7.png"."""
    plain = unicodedata.normalize("NFKD", request.prompt).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48].strip("-") or "picture"
    return f"{words}-{word or request.seed}.png"


def save(data: bytes, path: Path) -> Path:
    """Write a picture, never over another one: to `name-2.png` if `name.png` holds something else."""
    free, number = path, 1
    while free.exists() and free.read_bytes() != data:
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    if not free.exists():
        write_atomic(free, data)
    return free


def _one_line(text: str) -> str:
    """Without line breaks and control characters, and not beginning like a field."""
    printable = "".join(
        " " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter for letter in text
    )
    line = printable.strip()
    found = _LOOKS_LIKE_A_FIELD.match(line)
    return f"{line[: found.end() - 1]}：{line[found.end() :]}" if found else line


def _quoted(value: str) -> str:
    """Quote a value that would end its pair early, as A1111 does."""
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:"\n\\]', value) else value
