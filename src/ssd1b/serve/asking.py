"""From what a client said to an order: gaps filled in, limits kept, before anything is loaded.

The three dialects say the same things under other names; this is where they meet. Does not know HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from ssd1b.generate.asked import Asked, completed
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
    return Order(wish.client, known.name, requests, wish.key, wish.dialect)


def sizes(asked: Asked, width: int | None, height: int | None) -> Asked:
    """The wish with a size given as two numbers, as A1111's and our own API have it."""
    if width is None and height is None:
        return asked
    return replace(asked, size=f"{width or height}x{height or width}")
