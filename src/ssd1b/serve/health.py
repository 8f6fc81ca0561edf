"""What those who run the server look at: alive, ready, and numbers for Prometheus.

Does not know how pictures are made.
"""

from __future__ import annotations

import psutil
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from ssd1b.serve.desk import Desk
from ssd1b.serve.jobs import State
from ssd1b.serve.wire import desk_of

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """Whether the process answers at all."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(request: Request) -> JSONResponse:
    """Whether a job sent now would be taken and made."""
    desk = desk_of(request)
    waiting, limit = desk.store.count(State.WAITING), desk.settings.limits.waiting
    ready = desk.worker.alive and waiting < limit
    said = {"ready": ready, "worker": desk.worker.alive, "waiting": waiting, "limit": limit}
    return JSONResponse(said | {"resident": desk.residence.resident}, 200 if ready else 503)


@router.get("/metrics")
def metrics(request: Request) -> PlainTextResponse:
    """Numbers in Prometheus' text format."""
    return PlainTextResponse(_text(desk_of(request)), media_type="text/plain; version=0.0.4; charset=utf-8")


def _text(desk: Desk) -> str:
    seen, store = desk.worker.measured, desk.store
    lines = [
        *_metric("jobs_waiting", "gauge", "Jobs in the queue.", {"": store.count(State.WAITING)}),
        *_metric("jobs_running", "gauge", "Jobs that are being made.", {"": store.count(State.RUNNING)}),
        *_metric("jobs_total", "counter", "Jobs that ended, by how.", _labelled("state", seen.jobs)),
        *_metric("wait_seconds_total", "counter", "Time that jobs waited.", {"": seen.wait_seconds}),
        *_metric("pictures_total", "counter", "Pictures made.", {"": seen.pictures}),
        *_metric("steps_total", "counter", "Denoising steps made.", {"": seen.steps}),
        *_metric("step_seconds_total", "counter", "Time spent in them.", {"": seen.step_seconds}),
        *_metric("refused_total", "counter", "Requests turned away, by reason.",
                 _labelled("reason", desk.refused.by_reason)),
        *_metric("load_seconds", "gauge", "Loading the last model.", {"": desk.residence.load_seconds}),
        *_metric("resident_bytes", "gauge", "Memory.", {"": psutil.Process().memory_info().rss}),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _labelled(label: str, values: dict[str, int]) -> dict[str, float]:
    return {f'{{{label}="{name}"}}': value for name, value in sorted(values.items())}


def _metric(name: str, kind: str, about: str, values: dict[str, float] | dict[str, int]) -> list[str]:
    """One metric; nothing has happened yet where there are no values."""
    full = f"ssd1b_{name}"
    head = [f"# HELP {full} {about}", f"# TYPE {full} {kind}"]
    return [*head, *(f"{full}{labels} {value:g}" for labels, value in values.items())]
