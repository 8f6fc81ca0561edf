"""What every request passes before a route sees it: size, sender, key; and what every answer carries.

Plain ASGI, so that nothing is parsed before it may be. Does not know routes beyond which are public, jobs or
models.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from ssd1b.serve.settings import Settings, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PUBLIC = ("/healthz", "/", "/page/")
"""Paths that ask for no key: they tell nothing. One that ends in a slash stands for all below it."""
BODY_TYPES = ("application/json", "multipart/form-data")
BODY_SECONDS = 60
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)


class Doors:
    """Wraps an application; refuses with the status and the sentence that say why."""

    def __init__(self, app: App, settings: Settings, on_refused: Callable[[str], None]) -> None:
        self.app, self.settings, self.on_refused = app, settings, on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await self._refuse(*refusal, scope["path"], send_with_headers)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive, self.settings.limits.body_bytes)
        except _TooLarge:
            said = 413, "too_large", _too_large(self.settings)
            await self._refuse(*said, scope["path"], send_with_headers)
        except TimeoutError:
            said = 408, "too_slow", f"The body did not arrive within {BODY_SECONDS} seconds."
            await self._refuse(*said, scope["path"], send_with_headers)
        else:
            await self.app(scope, _replay(body, receive), send_with_headers)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str, str] | None:
        """Status, code and sentence for a request that may not come in; None for one that may."""
        host = headers.get("host", "")
        if not self.settings.api_key and not is_loopback(_name_of(host)):
            return 403, "wrong_host", f"This server is for this machine only; '{host[:100]}' is another name."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "wrong_origin", "Requests that another web site makes are not taken."
        if self.settings.api_key and not _is_public(scope["path"]) and not self._has_key(headers):
            return 401, "invalid_api_key", "Send the server's API key: 'Authorization: Bearer KEY'."
        if scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
            return self._body_refusal(headers)
        return None

    def _body_refusal(self, headers: Mapping[str, str]) -> tuple[int, str, str] | None:
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return 400, "bad_length", "Content-Length is not a number."
        if int(length) > self.settings.limits.body_bytes:
            return 413, "too_large", _too_large(self.settings)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if (int(length) or "transfer-encoding" in headers) and kind not in BODY_TYPES:
            return 415, "wrong_type", f"Send {' or '.join(BODY_TYPES)}."
        return None

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        """As a bearer token or, for clients of A1111, as the password of basic authentication."""
        kind, _, said = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                said = base64.b64decode(said, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(said.strip().encode(), self.settings.api_key.encode())

    async def _refuse(self, status: int, code: str, said: str, path: str, send: Send) -> None:
        self.on_refused(code)
        body = json.dumps(error_body(path, status, code, said)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="ssd1b"'))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def error_body(path: str, status: int, code: str, said: str, param: str | None = None) -> dict[str, object]:
    """An error in the shape that clients of a path expect: A1111's below /sdapi, OpenAI's everywhere else."""
    if path.startswith("/sdapi/"):
        return {"error": code, "detail": said, "body": "", "errors": said}
    kind = (
        "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    )
    return {"error": {"message": said, "type": kind, "param": param, "code": code}}


class _TooLarge(Exception):
    """More bytes came than are allowed."""


async def _read(receive: Receive, limit: int) -> bytes:
    """The whole body, before anybody parses it; whatever length was announced, no more than the limit."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        body += message.get("body", b"")
        if len(body) > limit:
            raise _TooLarge
        more = message.get("more_body", False)
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, in one piece; then whatever comes, which is the client going away."""
    told = False

    async def replayed() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _too_large(settings: Settings) -> str:
    return f"A request may have {settings.limits.body_bytes >> 20} MiB here."


def _is_public(path: str) -> bool:
    return any(
        path == public or (len(public) > 1 and public.endswith("/") and path.startswith(public))
        for public in PUBLIC
    )


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.rpartition(":")[0] or host
