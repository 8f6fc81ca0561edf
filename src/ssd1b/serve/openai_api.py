"""OpenAI's images API, as its own client speaks it: models, generations, partial pictures while they form.

Beyond it, under the names that other servers use as well: seed, num_inference_steps, guidance_scale,
negative_prompt, scheduler. Fields that mean nothing here (quality, style, user ...) are read and left aside.
Does not know how pictures are made.
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssd1b.base.errors import RequestError
from ssd1b.generate.asked import Asked
from ssd1b.serve.asking import Wish, canvas_of
from ssd1b.serve.desk import Desk, quietly_cancel
from ssd1b.serve.doors import error_body
from ssd1b.serve.jobs import Job, Picture
from ssd1b.serve.wire import client_of, desk_of, sse

router = APIRouter(prefix="/v1", tags=["OpenAI"])
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


class Generation(BaseModel):
    """The body of a generation; sizes are "WIDTHxHEIGHT" in pixels or "auto"."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(max_length=20_000)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=100)] | None = 1
    size: str | None = "auto"
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = 100
    stream: bool | None = False
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    negative_prompt: Annotated[str, Field(max_length=20_000)] | None = None
    scheduler: str | None = None
    quality: str | None = None
    style: str | None = None
    background: str | None = None
    moderation: str | None = None
    user: str | None = None

    def wish(self, client: str, key: str) -> Wish:
        """In the words of the desk."""
        asked = Asked(
            prompt=self.prompt,
            negative=self.negative_prompt,
            size="" if self.size in (None, "auto") else str(self.size),
            steps=self.num_inference_steps,
            guidance=self.guidance_scale,
            scheduler=self.scheduler,
            seed=self.seed,
        )
        return Wish(asked, self.model or "", self.n or 1, client, key, "openai")


class Edit(Generation):
    """The fields of an edit beside its picture and its mask, as they come in a form."""

    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    input_fidelity: str | None = None


@router.get("/models")
def models(request: Request) -> dict[str, object]:
    """The models that are offered, the default one first."""
    names = desk_of(request).residence.names
    return {"object": "list", "data": [_model(name) for name in names]}


@router.get("/models/{name:path}")
def model(request: Request, name: str) -> dict[str, object]:
    """One of them."""
    return _model(desk_of(request).residence.about(name).name)


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "ssd1b"}


@router.post("/images/generations", response_model=None)
async def generations(
    request: Request, asked: Generation, idempotency_key: Annotated[str, Header(max_length=200)] = ""
) -> JSONResponse | StreamingResponse:
    """Make pictures; answered when all are there or, with `stream`, while they form."""
    return await _made(request, asked, asked.wish(client_of(request), idempotency_key))


@router.post("/images/edits", response_model=None)
async def edits(
    request: Request, idempotency_key: Annotated[str, Header(max_length=200)] = ""
) -> JSONResponse | StreamingResponse:
    """Paint over a picture (`image`), or anew where its `mask` is transparent; a form, as OpenAI has it.

    Beyond it: `strength`, how much of the picture gives way (with a mask: all of it, if nothing is said).
    """
    async with request.form(max_files=3, max_fields=40, max_part_size=1 << 20) as form:
        files = {
            name.removesuffix("[]"): part for name, part in form.multi_items() if not isinstance(part, str)
        }
        fields = {name: part for name, part in form.multi_items() if isinstance(part, str)}
        if "image" not in files or files.keys() - {"image", "mask"}:
            raise RequestError("Send one picture as the file 'image' and, if you like, its 'mask'.")
        image, mask = [await files[name].read() if name in files else None for name in ("image", "mask")]
    try:
        asked = Edit.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    limits = desk_of(request).settings.limits
    canvas = await asyncio.to_thread(canvas_of, image or b"", mask, limits)
    wish = asked.wish(client_of(request), idempotency_key)
    strength = asked.strength or (1.0 if mask else None)
    return await _made(
        request, asked, replace(wish, asked=replace(wish.asked, canvas=canvas, more={"strength": strength}))
    )


async def _made(request: Request, asked: Generation, wish: Wish) -> JSONResponse | StreamingResponse:
    """Queue a wish and answer with its pictures, or with the stream of them."""
    desk = desk_of(request)
    if asked.stream and (asked.n or 1) > 1:
        raise RequestError("Pictures are streamed one at a time: leave n at 1, or stream out.")
    job = await asyncio.to_thread(desk.accept, wish)
    if asked.stream:
        answer = _streamed(desk, job, asked, request)
        return StreamingResponse(
            answer, media_type="text/event-stream", headers={"cache-control": "no-store"}
        )
    done = await desk.finished(job.id, request.is_disconnected)
    base = str(request.base_url).rstrip("/")
    return JSONResponse(
        {
            "created": int(done.created),
            "data": [_datum(desk, p, asked, base) for p in done.pictures],
            **_facts(asked, done),
        }
    )


async def _streamed(desk: Desk, job: Job, asked: Generation, request: Request) -> AsyncIterator[str]:
    """Partial pictures at even distances, then the finished one; a client that goes away cancels the job."""
    first, wanted, sent = job.order.requests[0], asked.partial_images or 0, 0
    try:
        async for event in desk.events(job.id, request.is_disconnected):
            step, steps = event.data.get("step"), event.data.get("steps")
            if isinstance(step, int) and isinstance(steps, int) and sent < wanted:
                due = step * (wanted + 1) >= (sent + 1) * steps and step < steps
                preview = str(event.data.get("preview", ""))
                if due and preview:
                    partial = _enlarged(preview, (first.width, first.height), asked)
                    yield sse(_event("partial_image", partial, job, asked) | {"partial_image_index": sent})
                    sent += 1
        done = desk.store.job(job.id)
        if not done.pictures or not done.state.final:
            said = done.error or f"This job is {done.state.value}."
            yield sse(error_body("/v1", 500, done.state.value, said))
            return
        data = _encoded(desk.store.png(done.pictures[0].id), asked)
        usage = {
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        }
        yield sse(_event("completed", data, done, asked) | {"usage": usage, "seed": first.seed})
    finally:
        quietly_cancel(desk, job.id)


def _event(kind: str, data: str, job: Job, asked: Generation) -> dict[str, object]:
    prefix = "image_edit" if isinstance(asked, Edit) else "image_generation"
    return {
        "type": f"{prefix}.{kind}",
        "b64_json": data,
        "created_at": int(time.time()),
        **_facts(asked, job),
    }


def _facts(asked: Generation, job: Job) -> dict[str, object]:
    """What OpenAI's answers say about every picture of a job."""
    first = job.order.requests[0]
    return {
        "size": f"{first.width}x{first.height}",
        "quality": "high",
        "background": "opaque",
        "output_format": asked.output_format or "png",
    }


def _datum(desk: Desk, picture: Picture, asked: Generation, base: str) -> dict[str, object]:
    said: dict[str, object] = {"seed": picture.request.seed}
    if asked.response_format == "url":
        return said | {"url": f"{base}/v1/pictures/{picture.id}"}
    return said | {"b64_json": _encoded(desk.store.png(picture.id), asked)}


def _encoded(png: bytes, asked: Generation) -> str:
    """The picture in the format that was asked for, base64; PNG goes as it lies in the gallery."""
    kind = asked.output_format or "png"
    if kind == "png":
        return base64.b64encode(png).decode()
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return _written(image.convert("RGB"), kind, asked)


def _enlarged(preview: str, size: tuple[int, int], asked: Generation) -> str:
    with Image.open(io.BytesIO(base64.b64decode(preview)), formats=["PNG"]) as image:
        large = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return _written(large, asked.output_format or "png", asked)


def _written(image: Image.Image, kind: str, asked: Generation) -> str:
    buffer = io.BytesIO()
    options = {} if kind == "png" else {"quality": max(1, asked.output_compression or 0)}
    image.save(buffer, FORMATS[kind], **options)
    return base64.b64encode(buffer.getvalue()).decode()
