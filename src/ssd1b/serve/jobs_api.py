"""Our own API: jobs to follow and cancel, the gallery, what the server offers. The page speaks this.

Does not know how pictures are made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from ssd1b.base.units import aspects_of
from ssd1b.generate import schedulers
from ssd1b.generate.asked import Asked
from ssd1b.plan.count import parameters
from ssd1b.serve.asking import Wish, bytes_of, canvas_of, sizes
from ssd1b.serve.desk import Desk
from ssd1b.serve.jobs import Job, Picture, State
from ssd1b.serve.limits import Limits
from ssd1b.serve.wire import client_of, desk_of, sse

router = APIRouter(prefix="/v1", tags=["jobs"])


class JobWish(BaseModel):
    """What a job is asked for; everything but the prompt may be left out."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(max_length=20_000)]
    negative: Annotated[str, Field(max_length=20_000)] | None = None
    model: str = ""
    width: Annotated[int, Field(ge=64, le=4096)] | None = None
    height: Annotated[int, Field(ge=64, le=4096)] | None = None
    aspect: str = ""
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance: Annotated[float, Field(ge=0, le=100)] | None = None
    scheduler: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    count: Annotated[int, Field(ge=1, le=100)] = 1
    guidance_until: Annotated[float, Field(gt=0, le=1)] | None = None
    reuse: Annotated[int, Field(ge=1, le=20)] | None = None
    syntax: Literal["weighted", "plain"] | None = None
    hires: Annotated[float, Field(ge=1, le=4)] | None = None
    upscale: Annotated[int, Field(ge=1, le=4)] | None = None
    image: str = Field("", description="A picture to paint over, as base64.")
    mask: str = Field("", description="Where to paint it anew: white, or transparent; as base64.")
    strength: Annotated[float, Field(gt=0, le=1)] | None = None

    def wish(self, client: str, key: str, limits: Limits) -> Wish:
        """In the words of the desk.

        Raises:
            RequestError: the picture or its mask cannot be read.
        """
        canvas = None
        if self.image or self.mask:
            mask = bytes_of(self.mask) if self.mask else None
            canvas = canvas_of(bytes_of(self.image), mask, limits)
        names = ("guidance_until", "reuse", "syntax", "hires", "upscale", "strength")
        asked = Asked(
            prompt=self.prompt,
            negative=self.negative,
            aspect=self.aspect,
            steps=self.steps,
            guidance=self.guidance,
            scheduler=self.scheduler,
            seed=self.seed,
            canvas=canvas,
            more={name: getattr(self, name) for name in names},
        )
        return Wish(sizes(asked, self.width, self.height), self.model, self.count, client, key)


@router.get("/about")
def about(request: Request) -> dict[str, object]:
    """What the page needs to know: models with their defaults and sizes, samplers, limits."""
    desk = desk_of(request)
    limits = desk.settings.limits
    return {
        "models": [_about_model(desk, name) for name in desk.residence.names],
        "resident": desk.residence.resident,
        "schedulers": list(schedulers.NAMES),
        "limits": {"steps": limits.steps, "count": limits.count, "side_px": limits.side_px},
    }


def _about_model(desk: Desk, name: str) -> dict[str, object]:
    known = desk.residence.about(name)
    defaults = known.defaults
    return {
        "name": known.name,
        "width": defaults.width,
        "height": defaults.height,
        "steps": defaults.steps,
        "guidance": defaults.guidance,
        "scheduler": defaults.scheduler,
        "parameters": parameters(known.shape),
        "aspects": {aspect: list(size) for aspect, size in aspects_of(known.shape.sample_size).items()},
    }


@router.post("/jobs", status_code=202)
def add(
    request: Request, asked: JobWish, idempotency_key: Annotated[str, Header(max_length=200)] = ""
) -> JSONResponse:
    """Put a job into the queue; the same key again answers with the same job."""
    desk = desk_of(request)
    job = desk.accept(asked.wish(client_of(request), idempotency_key, desk.settings.limits))
    return JSONResponse(job_data(desk, job), 202, headers={"location": f"/v1/jobs/{job.id}"})


@router.get("/jobs")
def jobs(request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> dict[str, object]:
    """The newest jobs."""
    desk = desk_of(request)
    return {"jobs": [job_data(desk, job) for job in desk.store.jobs(limit=limit)]}


@router.get("/jobs/{name}")
def job(request: Request, name: str) -> dict[str, object]:
    """One job as it stands."""
    desk = desk_of(request)
    return job_data(desk, desk.store.job(name))


@router.get("/jobs/{name}/events", response_model=None)
async def events(request: Request, name: str) -> StreamingResponse:
    """A job as it goes, as server-sent events: first as it stands, then what happens, last its end.

    Leaving the stream does not cancel the job.
    """
    desk = desk_of(request)
    now = desk.store.job(name)

    async def told() -> AsyncIterator[str]:
        yield sse({"type": "job", **job_data(desk, now)})
        async for event in desk.events(name, request.is_disconnected):
            final = event.kind in {state.value for state in State if state.final}
            more = job_data(desk, desk.store.job(name)) if final else {}
            yield sse({"type": event.kind, **more, **event.data})

    return StreamingResponse(told(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@router.post("/jobs/{name}/cancel")
def cancel(request: Request, name: str) -> dict[str, object]:
    """Cancel a job that waits or runs; one that has ended stays as it is."""
    desk = desk_of(request)
    return job_data(desk, desk.cancel(name))


@router.get("/pictures")
def pictures(
    request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 60, before: float | None = None
) -> dict[str, object]:
    """The gallery, newest first; `before` is the `created` of the last one that is known."""
    found = desk_of(request).store.pictures(limit, before)
    return {"pictures": [picture_data(picture) for picture in found]}


@router.get("/pictures/{name}", response_class=Response)
def picture(request: Request, name: str) -> Response:
    """A picture, as PNG with its request inside; it never changes."""
    data = desk_of(request).store.png(name)
    return Response(
        data, media_type="image/png", headers={"cache-control": "private, max-age=31536000, immutable"}
    )


@router.delete("/pictures/{name}", status_code=204)
def remove(request: Request, name: str) -> Response:
    """Take a picture out of the gallery for good."""
    desk_of(request).store.remove(name)
    return Response(status_code=204)


def job_data(desk: Desk, job: Job) -> dict[str, object]:
    """A job as clients are told of it."""
    now = desk.worker.now
    running = now if now is not None and now.job == job.id else None
    return {
        "id": job.id,
        "state": job.state.value,
        "model": job.order.model,
        "request": job.order.requests[0].model_dump(),
        "count": len(job.order.requests),
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "error": job.error,
        "ahead": desk.store.ahead_of(job.id),
        "seconds_ahead": round(desk.seconds_ahead(job), 1) if job.state is State.WAITING else 0.0,
        "step": running.step if running else 0,
        "steps": running.steps if running else job.order.requests[0].steps,
        "pictures": [picture_data(each) for each in job.pictures],
    }


def picture_data(picture: Picture) -> dict[str, object]:
    """A picture as clients are told of it."""
    return {
        "id": picture.id,
        "job": picture.job,
        "url": f"/v1/pictures/{picture.id}",
        "request": picture.request.model_dump(),
        "seconds": round(picture.seconds, 3),
        "created": picture.created,
    }
