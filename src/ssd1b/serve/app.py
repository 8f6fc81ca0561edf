"""The application: routes of all dialects, the page, and what errors look like.

Does not know how a server is started (see `cli`), nor how pictures are made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

import ssd1b
from ssd1b.base.errors import UserError
from ssd1b.serve import a1111_api, health, jobs_api, openai_api
from ssd1b.serve.desk import Desk, JobEndedError
from ssd1b.serve.doors import Doors, error_body
from ssd1b.serve.jobs import KeyReusedError, QueueFullError, UnknownJobError

if TYPE_CHECKING:
    from ssd1b.serve.doors import App

PAGE = Path(str(files("ssd1b.serve") / "page"))
LONG_WAIT_S = 60
"""From this many seconds on, OpenAI's client is told not to send the same request again by itself."""


def application(desk: Desk) -> App:
    """The server behind its doors, as an ASGI application; its worker lives as long as it does."""

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        desk.open()
        yield
        desk.close()

    app = FastAPI(
        title="ssd1b",
        version=ssd1b.__version__,
        lifespan=living,
        docs_url=None,
        redoc_url=None,
        description="Pictures from sentences: jobs, OpenAI's images API, and what clients of A1111 call.",
    )
    app.state.desk = desk
    for router in (health.router, openai_api.router, jobs_api.router, a1111_api.router):
        app.include_router(router)
    app.add_api_route("/", _page, methods=["GET"], include_in_schema=False)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    return Doors(app, desk.settings, desk.refused.count)


async def _page() -> FileResponse:
    return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})


async def _user_error(request: Request, error: Exception) -> JSONResponse:
    """What a person can mend: 4xx; what became of a job: 409, or 500 where it was our fault."""
    status, code, headers = 400, "invalid_request", {}
    if isinstance(error, QueueFullError):
        status, code = 429, "queue_full"
        headers = {"retry-after": str(error.retry_after_s)}
        headers |= {"x-should-retry": "false"} if error.retry_after_s > LONG_WAIT_S else {}
    elif isinstance(error, UnknownJobError):
        status, code = 404, "not_found"
    elif isinstance(error, KeyReusedError):
        status, code = 409, "idempotency_key_reused"
    elif isinstance(error, JobEndedError):
        status, code = (500 if error.state == "failed" else 409), error.state.value
        headers = {"x-should-retry": "false"}
    return JSONResponse(error_body(request.url.path, status, code, str(error)), status, headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A body or a parameter of the wrong shape: one sentence about the first field."""
    assert isinstance(error, RequestValidationError), "registered for it"
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path", "header"))
    unknown = first["type"] == "extra_forbidden"
    said = f"There is no field '{field}' here." if unknown else f"'{field}': {first['msg']}."
    code = "unknown_parameter" if unknown else "invalid_value"
    return JSONResponse(error_body(request.url.path, 400, code, said, field or None), 400)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException), "registered for it"
    said = {404: "There is nothing at this address.", 405: "This address does not take that method."}
    text = said.get(error.status_code, str(error.detail))
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    body = error_body(request.url.path, error.status_code, code, text)
    return JSONResponse(body, error.status_code, dict(error.headers or {}))
