"""The one thread that makes pictures: takes a job, makes it step by step, tells how it goes.

One job at a time, because one model already keeps the machine busy. A job is left at once, between two steps,
when it is cancelled or the server stops. Does not know HTTP.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from ssd1b.base.errors import UserError
from ssd1b.generate.picture import picture_bytes
from ssd1b.generate.pipeline import Cancelled, Step, sample
from ssd1b.generate.preview import Previewer
from ssd1b.serve.events import Broker, Event
from ssd1b.serve.jobs import Job, State
from ssd1b.serve.residence import Residence
from ssd1b.serve.store import Store

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ssd1b.generate.model import Model
    from ssd1b.generate.request import Request

T = TypeVar("T")
log = logging.getLogger("ssd1b.serve")
PREVIEW_EVERY_S = 0.25


class Stopping(Exception):
    """The server stops while a job runs."""


@dataclass(slots=True)
class Measured:
    """What the worker has seen, for estimates and metrics: sums over its life."""

    pictures: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    wait_seconds: float = 0.0
    jobs: dict[str, int] = field(default_factory=dict)
    recent_job_s: float = 5.0

    def ended(self, state: State, seconds: float) -> None:
        """Count a job; recent ones weigh more in the estimate of the next."""
        self.jobs[state.value] = self.jobs.get(state.value, 0) + 1
        if state is State.DONE:
            self.recent_job_s = 0.7 * self.recent_job_s + 0.3 * seconds


@dataclass(frozen=True, slots=True)
class Now:
    """The job that is running, for those who ask instead of listening."""

    job: str
    picture: int
    pictures: int
    step: int
    steps: int
    seconds_left: float
    preview_png: bytes = b""


class Worker:
    """Runs jobs until it is told to stop."""

    def __init__(
        self, store: Store, residence: Residence, broker: Broker, *, log_prompts: bool = False
    ) -> None:
        self.log_prompts = log_prompts
        self.store, self.residence, self.broker = store, residence, broker
        self.measured = Measured()
        self.now: Now | None = None
        self._wake, self._stop = Flag(), Flag()
        self._thread = Thread(target=self._work, name="ssd1b-worker", daemon=True)
        self._previewer: tuple[str, Previewer] | None = None

    def start(self) -> None:
        """Begin; what a former server was running is marked as interrupted first."""
        for name in self.store.recover():
            log.info(json.dumps({"job": name, "state": State.INTERRUPTED.value}))
        self.store.sweep()
        self._thread.start()

    def wake(self) -> None:
        """Look at the queue now."""
        self._wake.set()

    def stop(self, wait_s: float = 30.0) -> None:
        """Leave the running job between two steps, and end; waiting jobs stay for the next server."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(wait_s)

    @property
    def alive(self) -> bool:
        """Whether it can take jobs."""
        return self._thread.is_alive() and not self._stop.is_set()

    def _work(self) -> None:
        while not self._stop.is_set():
            job = self._kept_trying(self.store.claim)
            if job is not None:
                self._run(job)
            elif not self._stop.is_set():
                self._wake.wait(timeout=1.0)
                self._wake.clear()

    def _kept_trying(self, change: Callable[[], T]) -> T | None:
        """A change of the store, again and again while the disk does not take it: the worker must not end."""
        while True:
            try:
                return change()
            except sqlite3.Error:
                log.exception("the queue could not be written; is the disk full?")
                if self._stop.wait(timeout=1.0):
                    return None

    def _run(self, job: Job) -> None:
        """Make one job's pictures; whatever happens, it gets an end and its listeners hear of it."""
        start = time.monotonic()
        self.measured.wait_seconds += max(0.0, (job.started or job.created) - job.created)
        self.broker.tell(Event(job.id, "started"))
        state, error = State.DONE, ""
        try:
            self._make(job)
        except Cancelled:
            state = State.CANCELLED
        except Stopping:
            state, error = State.INTERRUPTED, "The server stopped while this was being made."
        except UserError as problem:
            state, error = State.FAILED, str(problem)
        except Exception:
            log.exception("job %s failed", job.id)
            state, error = State.FAILED, "The server could not make this; its log has the reason."
        self.now = None
        seconds = time.monotonic() - start
        self._kept_trying(lambda: self.store.finish(job.id, state, error))
        self._kept_trying(self.store.sweep)
        self.measured.ended(state, seconds)
        self._log(job, state, seconds)
        self.broker.tell(Event(job.id, state.value, {"error": error} if error else {}))

    def _log(self, job: Job, state: State, seconds: float) -> None:
        """One line of JSON a job; its prompt only where that was asked for."""
        order = job.order
        told: dict[str, object] = {
            "job": job.id,
            "state": state.value,
            "model": order.model,
            "dialect": order.dialect,
        }
        told |= {"pictures": len(order.requests), "seconds": round(seconds, 3)}
        if self.log_prompts:
            told |= {"prompt": order.requests[0].prompt, "negative": order.requests[0].negative or ""}
        log.info(json.dumps(told))

    def _make(self, job: Job) -> None:
        self._refuse_to_go_on(job.id)
        model = self.residence.model(job.order.model)
        total = len(job.order.requests)
        for number, request in enumerate(job.order.requests):
            start = time.monotonic()
            image = self._picture(job, model, request, number, total)
            self._refuse_to_go_on(job.id)
            seconds = time.monotonic() - start
            picture = self.store.keep(job.id, request, picture_bytes(image, request), seconds)
            self.measured.pictures += 1
            told = {"picture": picture.id, "number": number, "seconds": round(seconds, 3)}
            self.broker.tell(Event(job.id, "picture", told))

    def _picture(self, job: Job, model: Model, request: Request, number: int, total: int) -> Image:
        follow = self._follower(job.id, model, request, number, total)
        return sample(model, [request], follow, self.store.canvases(request))[0]

    def _follower(
        self, job: str, model: Model, request: Request, number: int, total: int
    ) -> Callable[[Step], None]:
        """What is called after every step: counts, shows, and leaves if asked to."""
        began = last = time.monotonic()
        shown = 0.0

        def follow(step: Step) -> None:
            nonlocal last, shown
            self._refuse_to_go_on(job)
            now = time.monotonic()
            self.measured.steps += 1
            self.measured.step_seconds += now - last
            each, last = (now - began) / step.number, now
            left = each * (step.total - step.number + (total - number - 1) * step.total)
            preview = self.now.preview_png if self.now and self.now.job == job else b""
            if now - shown >= PREVIEW_EVERY_S or step.number == step.total:
                preview, shown = self._preview(model, step.latent_BCHW), now
            self.now = Now(job, number, total, step.number, step.total, left, preview)
            self.broker.tell(Event(job, "step", step_data(self.now)))

        return follow

    def _preview(self, model: Model, latent_BCHW: Tensor) -> bytes:
        if self._previewer is None or self._previewer[0] != model.name:
            self._previewer = model.name, Previewer(model.vae)
        buffer = io.BytesIO()
        self._previewer[1].image(latent_BCHW[0]).save(buffer, "PNG")
        return buffer.getvalue()

    def _refuse_to_go_on(self, job: str) -> None:
        if self._stop.is_set():
            raise Stopping
        if self.store.cancel_asked(job):
            raise Cancelled


def step_data(now: Now) -> dict[str, object]:
    """A step as clients are told of it."""
    return {
        "picture": now.picture,
        "pictures": now.pictures,
        "step": now.step,
        "steps": now.steps,
        "seconds_left": round(now.seconds_left, 2),
        "preview": base64.b64encode(now.preview_png).decode(),
    }
