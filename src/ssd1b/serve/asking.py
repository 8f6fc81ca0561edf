"""From what a client said to an order: gaps filled in, limits kept, before anything is loaded.

The three dialects say the same things under other names; this is where they meet. Does not know HTTP.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from ssd1b.base.errors import DamagedFileError, RequestError
from ssd1b.generate.asked import Asked, completed
from ssd1b.generate.canvas import Canvas, opened, read_canvas
from ssd1b.serve.jobs import Order
from ssd1b.serve.limits import Limits
from ssd1b.serve.residence import Residence

if TYPE_CHECKING:
    from ssd1b.generate.model import Model


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for, in the words of `generate`.

    Attributes:
        asked: prompt, size, steps and the rest, with gaps.
        model: public name; "" is the server's default.
        count: pictures, with seeds counting up.
        client: who asks.
        key: idempotency key, or "".
        dialect: the API it came through.
    """

    asked: Asked
    model: str = ""
    count: int = 1
    client: str = "local"
    key: str = ""
    dialect: str = "jobs"


def order_of(wish: Wish, residence: Residence, limits: Limits) -> Order:
    """Complete and check a wish.

    Raises:
        RequestError: no such model, a value out of range, or more than this server takes on.
    """
    known = residence.about(wish.model)
    limits.refuse_count(wish.count)
    # `completed` reads name, shape, defaults and decoder, which a model that is not loaded has as well.
    requests = completed(wish.asked, cast("Model", known), wish.count)
    limits.refuse(requests)
    digest = _digest(wish, known.name)
    return Order(wish.client, known.name, requests, wish.key, wish.dialect, digest, wish.asked.canvas)


def _digest(wish: Wish, model: str) -> str:
    """Hash of what a client said; what was left open does not count, so a request sent again is the same."""
    asked = wish.asked
    painted = asked.canvas.fields() if asked.canvas is not None else {}
    said = {"prompt": asked.prompt, "size": asked.size, "aspect": asked.aspect, **asked.said(), **painted}
    words = json.dumps({"model": model, "count": wish.count, **said}, sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()


def canvas_of(image: bytes, mask: bytes | None, limits: Limits) -> Canvas:
    """What a client sent to be painted over; measured before it is decoded.

    A mask with transparent places, as OpenAI has it, is painted anew there; one without, as A1111 has it,
    where it is white.

    Raises:
        RequestError: too many pixels, no picture, or a mask that does not fit.
    """
    for data in (image, *([mask] if mask else [])):
        try:
            with opened(data) as picture:
                if picture.width * picture.height > limits.upload_pixels:
                    said = f"{picture.width}x{picture.height}"
                    raise RequestError(f"A picture of {said} pixels is too large to be read here.")
        except DamagedFileError as error:
            raise RequestError(str(error)) from error
    try:
        return read_canvas(image, None if mask is None else _black_and_white(mask))
    except DamagedFileError as error:
        raise RequestError(str(error)) from error


def _black_and_white(mask: bytes) -> bytes:
    with opened(mask) as picture:
        alpha = picture.convert("RGBA").getchannel("A")
        if not picture.has_transparency_data or alpha.getextrema() == (255, 255):
            return mask
        holes = alpha.point([255 * (level < 128) for level in range(256)])
    buffer = io.BytesIO()
    holes.save(buffer, "PNG")
    return buffer.getvalue()


def bytes_of(text: str) -> bytes:
    """A picture out of base64, with or without "data:image/png;base64," before it.

    Raises:
        RequestError: it is none; addresses are not fetched.
    """
    try:
        return base64.b64decode(text.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("A picture must be sent as base64; addresses are not fetched.") from error


def sizes(asked: Asked, width: int | None, height: int | None) -> Asked:
    """The wish with a size given as two numbers, as A1111's and our own API have it."""
    if width is None and height is None:
        return asked
    return replace(asked, size=f"{width or height}x{height or width}")
