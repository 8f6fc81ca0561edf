"""Where every dialect brings its orders and waits for them: the server's parts in one place.

Knows store, residence, worker and broker. Does not know what requests and answers look like.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssd1b.base.errors import UserError
from ssd1b.serve.asking import Wish, order_of
from ssd1b.serve.events import Broker, Event
from ssd1b.serve.jobs import Job, QueueFullError, State
from ssd1b.serve.residence import Residence, names_of
from ssd1b.serve.settings import Settings
from ssd1b.serve.store import Store
from ssd1b.serve.worker import Worker

if TYPE_CHECKING:
    from ssd1b.generate.load import EngineWish

LOOK_EVERY_S = 0.5
Gone = Callable[[], Awaitable[bool]]


class JobEndedError(UserError):
    """A job that somebody waited for ended without its pictures; `state` says how."""

    def __init__(self, job: Job) -> None:
        said = {
            State.CANCELLED: "This job was cancelled.",
            State.INTERRUPTED: "The server stopped while this was being made. Ask again.",
        }
        super().__init__(job.error or said.get(job.state, "This job failed."))
        self.state = job.state


@dataclass(slots=True)
class Refused:
    """How often what was turned away, by reason; for metrics."""

    by_reason: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str) -> None:
        """One more."""
        self.by_reason[reason] = self.by_reason.get(reason, 0) + 1


class Desk:
    """A running server without HTTP."""

    def __init__(self, settings: Settings, wish: EngineWish) -> None:
        self.settings = settings
        self.store = Store(settings.folder, settings.limits)
        self.residence = Residence(names_of(settings.models), wish)
        self.broker = Broker()
        self.worker = Worker(self.store, self.residence, self.broker, log_prompts=settings.log_prompts)
        self.refused = Refused()

    def open(self) -> None:
        """Start the worker."""
        self.worker.start()

    def close(self) -> None:
        """Stop the worker between two steps and let go of the store; waiting jobs stay."""
        self.worker.stop()
        self.store.close()

    def accept(self, wish: Wish) -> Job:
        """Put a wish into the queue.

        Raises:
            RequestError, QueueFullError, KeyReusedError: it was not taken.
        """
        try:
            order = order_of(wish, self.residence, self.settings.limits)
            job = self.store.add(order, self.seconds_until_room)
        except UserError as problem:
            self.refused.count("queue_full" if isinstance(problem, QueueFullError) else "invalid")
            raise
        self.broker.tell(Event(job.id, "queued"))
        self.worker.wake()
        return job

    def cancel(self, name: str) -> Job:
        """Cancel a job, and tell those who wait for it.

        Raises:
            UnknownJobError: no such job.
        """
        job = self.store.cancel(name)
        if job.state is State.CANCELLED:
            self.broker.tell(Event(name, job.state.value))
        return job

    def seconds_until_room(self, waiting: int) -> int:
        """A guess, from how long jobs took lately, when one of the waiting ones will be done."""
        return max(1, round(self.worker.measured.recent_job_s))

    def seconds_ahead(self, job: Job) -> float:
        """A guess of how long a waiting job will wait before it begins."""
        now = self.worker.now
        running = now.seconds_left if now is not None else 0.0
        return self.store.ahead_of(job.id) * self.worker.measured.recent_job_s + running

    async def events(self, name: str, gone: Gone) -> AsyncIterator[Event]:
        """What happens to a job from now on, until it ends; one that has ended gets its end at once.

        Ends early when the client has gone.

        Raises:
            UnknownJobError: no such job.
        """
        with self.broker.listening(name) as queue:
            job, looked = await asyncio.to_thread(self.store.job, name), time.monotonic()
            while not job.state.final:
                event = await _next(queue)
                # Looked at by the clock, not when nothing comes: steps may come faster than that.
                if time.monotonic() - looked >= LOOK_EVERY_S:
                    if await gone():
                        return
                    job, looked = await asyncio.to_thread(self.store.job, name), time.monotonic()
                if event is not None and event.kind in _ENDS:
                    break
                if event is not None:
                    yield event
            job = await asyncio.to_thread(self.store.job, name)
            yield Event(name, job.state.value, {"error": job.error} if job.error else {})

    async def finished(self, name: str, gone: Gone) -> Job:
        """Wait for a job's pictures; a client that goes away meanwhile cancels it.

        Raises:
            JobEndedError: it ended without them.
        """
        try:
            async for _ in self.events(name, gone):
                pass
        finally:
            job = await asyncio.shield(asyncio.to_thread(self._left, name))
        if job.state is not State.DONE:
            raise JobEndedError(job)
        return job

    def _left(self, name: str) -> Job:
        """The job as it stands when nobody waits for it any longer."""
        job = self.store.job(name)
        return job if job.state.final else self.cancel(name)


async def _next(queue: asyncio.Queue[Event]) -> Event | None:
    """The next event, or None when none comes for a while."""
    try:
        return await asyncio.wait_for(queue.get(), LOOK_EVERY_S)
    except TimeoutError:
        return None


_ENDS = frozenset(state.value for state in State if state.final)


def quietly_cancel(desk: Desk, name: str) -> None:
    """Cancel what nobody waits for; that it is gone already does not matter."""
    with suppress(UserError):
        desk.cancel(name)
