"""What all dialects share on the wire: where the desk is, who asks, how events are written.

Does not know any dialect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from fastapi import Request

    from ssd1b.serve.desk import Desk


def desk_of(request: Request) -> Desk:
    """The server's desk."""
    return cast("Desk", request.app.state.desk)


def client_of(request: Request) -> str:
    """Who asks, for taking turns: what the page or a program calls itself, else the address it comes from."""
    said = request.headers.get("x-client-id", "")
    address = request.client.host if request.client else "unknown"
    return hashlib.sha256(f"{address}\0{said[:200]}".encode()).hexdigest()[:16]


def sse(data: Mapping[str, object]) -> str:
    """One server-sent event; its name is the `type` in it, where there is one."""
    name = data.get("type")
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n"
