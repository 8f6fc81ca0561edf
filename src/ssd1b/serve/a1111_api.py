"""The part of A1111's API that other programs call, so that they can point at this server instead.

Answers have A1111's shape even where this server has nothing to say (scripts, LoRAs, upscalers: empty lists).
What it has and this server has not (scripts, face restoration, other fields) is read and left aside, except
where leaving it out would make another picture than was asked for: that is refused. Does not know how
pictures are made.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
from dataclasses import replace
from typing import Annotated, Any

import psutil
from fastapi import APIRouter, Request
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from ssd1b.base.errors import RequestError
from ssd1b.generate import schedulers
from ssd1b.generate.asked import Asked
from ssd1b.generate.infotext import parameters
from ssd1b.generate.picture import PARAMETERS
from ssd1b.serve.asking import Wish, bytes_of, canvas_of, sizes
from ssd1b.serve.jobs import Job
from ssd1b.serve.limits import Limits
from ssd1b.serve.wire import client_of, desk_of

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])
_CHANGES_THE_PICTURE = ("enable_hr", "tiling", "restore_faces", "script_name", "refiner_checkpoint")


class TextToImage(BaseModel):
    """The body of txt2img; of A1111's many fields those that mean something here, the rest is let pass."""

    model_config = ConfigDict(extra="allow")

    prompt: Annotated[str, Field(max_length=20_000)] = ""
    negative_prompt: Annotated[str, Field(max_length=20_000)] = ""
    seed: Annotated[int, Field(ge=-1, lt=2**63)] = -1
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: Annotated[int, Field(ge=1, le=100)] = 1
    n_iter: Annotated[int, Field(ge=1, le=100)] = 1
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    cfg_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    width: Annotated[int, Field(ge=64, le=4096)] | None = None
    height: Annotated[int, Field(ge=64, le=4096)] | None = None
    override_settings: dict[str, Any] | None = None

    def wish(self, client: str, default_model: str) -> Wish:
        """In the words of the desk.

        Raises:
            RequestError: something is asked for that would change the picture and is not there.
        """
        extra = self.model_extra or {}
        for name in _CHANGES_THE_PICTURE:
            if extra.get(name):
                raise RequestError(f"'{name}' is not to be had here; leave it out.")
        said = self.sampler_name or self.sampler_index
        asked = Asked(
            self.prompt,
            self.negative_prompt or None,
            steps=self.steps,
            guidance=self.cfg_scale,
            scheduler=_scheduler(said, self.scheduler) if said else None,
            seed=None if self.seed == -1 else self.seed,
        )
        model = str((self.override_settings or {}).get("sd_model_checkpoint") or default_model)
        asked = sizes(asked, self.width, self.height)
        return Wish(asked, model, self.batch_size * self.n_iter, client, dialect="a1111")


class ImageToImage(TextToImage):
    """The body of img2img: a picture, and where a mask is white it is painted anew."""

    init_images: Annotated[list[str], Field(min_length=1, max_length=1)]
    mask: str | None = None
    denoising_strength: Annotated[float, Field(gt=0, le=1)] = 0.75
    inpainting_mask_invert: Annotated[int, Field(ge=0, le=1)] = 0

    def painted(self, wish: Wish, limits: Limits) -> Wish:
        """The wish with its picture; without a size it keeps the model's own.

        Raises:
            RequestError: the picture or its mask cannot be read, or the mask is to be turned around.
        """
        if self.inpainting_mask_invert:
            raise RequestError("'inpainting_mask_invert' is not to be had here; send the mask turned around.")
        mask = bytes_of(self.mask) if self.mask else None
        canvas = canvas_of(bytes_of(self.init_images[0]), mask, limits)
        asked = replace(wish.asked, canvas=canvas, more={"strength": self.denoising_strength})
        return replace(wish, asked=asked)


def _scheduler(sampler: str, schedule: str | None) -> str:
    """Our name of A1111's sampler: by itself ("DPM++ 2M Karras") or with its schedule apart.

    Raises:
        RequestError: there is none.
    """
    ours = {kind.a1111_name.lower(): name for name, kind in schedulers.KINDS.items()}
    plain = sampler.strip().lower()
    apart = f"{plain} {schedule.lower()}" if schedule and schedule.lower() != "automatic" else plain
    found = ours.get(apart) or ours.get(plain) or (plain if plain in schedulers.NAMES else None)
    if found is None:
        known = ", ".join(kind.a1111_name for kind in schedulers.KINDS.values())
        raise RequestError(f"There is no sampler '{sampler}' here. There are: {known}.")
    return found


@router.post("/txt2img")
async def txt2img(request: Request, asked: TextToImage) -> dict[str, object]:
    """Make pictures; a client that goes away cancels them."""
    desk = desk_of(request)
    wish = asked.wish(client_of(request), _chosen(request))
    job = await asyncio.to_thread(desk.accept, wish)
    done = await desk.finished(job.id, request.is_disconnected)
    images = [base64.b64encode(desk.store.png(picture.id)).decode() for picture in done.pictures]
    return {"images": images, "parameters": asked.model_dump(), "info": json.dumps(_info(done))}


@router.post("/img2img")
async def img2img(request: Request, asked: ImageToImage) -> dict[str, object]:
    """Paint over a picture, or over a part of it."""
    desk = desk_of(request)
    wish = asked.wish(client_of(request), _chosen(request))
    wish = await asyncio.to_thread(asked.painted, wish, desk.settings.limits)
    job = await asyncio.to_thread(desk.accept, wish)
    done = await desk.finished(job.id, request.is_disconnected)
    images = [base64.b64encode(desk.store.png(picture.id)).decode() for picture in done.pictures]
    parameters_ = asked.model_dump(exclude={"init_images", "mask"})
    return {"images": images, "parameters": parameters_, "info": json.dumps(_info(done))}


def _info(job: Job) -> dict[str, object]:
    """What A1111 puts, as a string of JSON, beside the pictures."""
    requests = job.order.requests
    first = requests[0]
    return {
        "prompt": first.prompt,
        "all_prompts": [each.prompt for each in requests],
        "negative_prompt": first.negative or "",
        "all_negative_prompts": [each.negative or "" for each in requests],
        "seed": first.seed,
        "all_seeds": [each.seed for each in requests],
        "width": first.width,
        "height": first.height,
        "sampler_name": schedulers.kind_of(first.scheduler).a1111_name,
        "cfg_scale": first.guidance,
        "steps": first.steps,
        "batch_size": len(requests),
        "sd_model_name": job.order.model,
        "infotexts": [parameters(each) for each in requests],
    }


@router.get("/progress")
def progress(request: Request, skip_current_image: bool = False) -> dict[str, object]:
    """How far the running job is, whoever started it."""
    now = desk_of(request).worker.now
    if now is None:
        state = {"skipped": False, "interrupted": False, "job": "", "job_count": 0, "sampling_step": 0}
        return {
            "progress": 0.0,
            "eta_relative": 0.0,
            "state": state | {"sampling_steps": 0},
            "current_image": None,
            "textinfo": None,
        }
    done = now.picture * now.steps + now.step
    return {
        "progress": min(0.99, done / (now.pictures * now.steps)),
        "eta_relative": now.seconds_left,
        "state": {
            "skipped": False,
            "interrupted": False,
            "job": now.job,
            "job_count": now.pictures,
            "job_no": now.picture,
            "sampling_step": now.step,
            "sampling_steps": now.steps,
        },
        "current_image": None if skip_current_image else base64.b64encode(now.preview_png).decode(),
        "textinfo": None,
    }


@router.post("/interrupt")
def interrupt(request: Request) -> dict[str, object]:
    """Cancel the running job."""
    desk = desk_of(request)
    now = desk.worker.now
    if now is not None:
        desk.cancel(now.job)
    return {}


def _chosen(request: Request) -> str:
    """The checkpoint that options name; A1111's clients choose the model that way."""
    return str(getattr(request.app.state, "a1111_model", "") or desk_of(request).residence.default)


@router.get("/options")
def options(request: Request) -> dict[str, object]:
    """The options that clients read."""
    return {"sd_model_checkpoint": _chosen(request), "samples_format": "png", "CLIP_stop_at_last_layers": 2}


@router.post("/options")
def set_options(request: Request, said: dict[str, Any]) -> None:
    """Choose the model of A1111's clients; other options are let pass.

    Raises:
        RequestError: there is no such model.
    """
    name = said.get("sd_model_checkpoint")
    if name is not None:
        request.app.state.a1111_model = desk_of(request).residence.about(str(name)).name


@router.get("/samplers")
def samplers() -> list[dict[str, object]]:
    """Our samplers under A1111's names."""
    return [
        {"name": kind.a1111_name, "aliases": [name], "options": {}} for name, kind in schedulers.KINDS.items()
    ]


@router.get("/schedulers")
def schedules() -> list[dict[str, object]]:
    """Karras comes with the name of a sampler here, so this list is short."""
    return [
        {
            "name": "automatic",
            "label": "Automatic",
            "aliases": None,
            "default_rho": -1,
            "need_inner_model": False,
        }
    ]


@router.get("/sd-models")
def sd_models(request: Request) -> list[dict[str, object]]:
    """The models that are offered; paths are not told."""
    return [
        {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
        for name in desk_of(request).residence.names
    ]


@router.get("/memory")
def memory() -> dict[str, object]:
    """Of the machine, in bytes."""
    machine = psutil.virtual_memory()
    return {"ram": {"free": machine.available, "used": machine.used, "total": machine.total}, "cuda": {}}


class PngInfo(BaseModel):
    """A PNG as base64."""

    image: str


@router.post("/png-info")
def png_info(request: Request, asked: PngInfo) -> dict[str, object]:
    """Read the settings out of a picture.

    Raises:
        RequestError: it is no PNG, or too large.
    """
    try:
        data = base64.b64decode(asked.image.rpartition(",")[2], validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > desk_of(request).settings.limits.upload_pixels:
                raise RequestError(
                    f"A picture of {image.width}x{image.height} pixels is too large to be read."
                )
            text = str(image.info.get(PARAMETERS, ""))
    except (OSError, ValueError, SyntaxError, binascii.Error) as error:
        raise RequestError(f"This is no PNG as base64 ({error}).") from error
    return {"info": text, "items": {"parameters": text}, "parameters": {}}


@router.get("/scripts")
def scripts() -> dict[str, list[str]]:
    """There are none."""
    return {"txt2img": [], "img2img": []}


@router.get("/script-info")
@router.get("/loras")
@router.get("/upscalers")
@router.get("/face-restorers")
@router.get("/sd-vae")
@router.get("/hypernetworks")
@router.get("/prompt-styles")
def nothing() -> list[object]:
    """There are none."""
    return []


@router.get("/cmd-flags")
def cmd_flags() -> dict[str, object]:
    """Nothing is told: A1111 once told its own password here."""
    return {}
