"""What happens to a job, told to whoever listens, across threads.

The worker tells from its thread; each listener is an asyncio queue of the server's loop. A listener that
does not keep up misses steps, never the end. Does not know jobs' content, HTTP or disks.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

BEHIND = 32
"""Events that a listener may be behind before steps are left out."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        job: to which job.
        kind: "queued", "started", "step", "picture", or the name of a final state.
        data: what a client is told.
    """

    job: str
    kind: str
    data: Mapping[str, object] = field(default_factory=dict)

    @property
    def may_be_missed(self) -> bool:
        """Whether a later one says the same and more."""
        return self.kind == "step"


class Listener:
    """One ear: `queue` fills while it listens."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.queue: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = loop

    def tell(self, event: Event) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: Event) -> None:
        if not (event.may_be_missed and self.queue.qsize() >= BEHIND):
            self.queue.put_nowait(event)


class Broker:
    """Hands events on to the listeners of a job, and to those of all jobs."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._listeners: dict[str, list[Listener]] = defaultdict(list)

    def tell(self, event: Event) -> None:
        """Tell everyone who listens now."""
        with self._lock:
            heard_by = [*self._listeners.get(event.job, ()), *self._listeners.get("", ())]
        for listener in heard_by:
            listener.tell(event)

    @contextmanager
    def listening(self, job: str = "") -> Iterator[asyncio.Queue[Event]]:
        """Inside the `with`, events of a job ("": of all) arrive in the queue."""
        listener = Listener(asyncio.get_running_loop())
        with self._lock:
            self._listeners[job].append(listener)
        try:
            yield listener.queue
        finally:
            with self._lock:
                self._listeners[job].remove(listener)
                if not self._listeners[job]:
                    del self._listeners[job]
