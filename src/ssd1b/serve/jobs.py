"""What a job is, and in which states it can be.

    waiting ──► running ──► done
       │           ├──────► failed        the reason is kept
       │           ├──────► interrupted   the server went away meanwhile
       └───────────┴──────► cancelled

Does not know where jobs are kept, nor who runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ssd1b.base.errors import UserError
from ssd1b.generate.canvas import Canvas
from ssd1b.generate.request import Request


class State(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to it."""
        return self not in (State.WAITING, State.RUNNING)


class QueueFullError(UserError):
    """There is no room for another job; `retry_after_s` says when to ask again."""

    def __init__(self, said: str, retry_after_s: int) -> None:
        super().__init__(said)
        self.retry_after_s = retry_after_s


class KeyReusedError(UserError):
    """An idempotency key came again with another request."""


class UnknownJobError(UserError):
    """No job, or no picture, has this id."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a client hands in.

    Attributes:
        client: who asks; clients take turns.
        model: the name of the model that all pictures are made with.
        requests: one a picture, alike but for their seeds.
        key: idempotency key: the same key from the same client is the same job; "" is none.
        digest: hash of what was said, before gaps were filled: a seed that was drawn makes no other request.
        canvas: what is painted over, to be kept with the job.
        dialect: which API it came through, for the log.
    """

    client: str
    model: str
    requests: Sequence[Request]
    key: str = ""
    dialect: str = "jobs"
    digest: str = ""
    canvas: Canvas | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture of a job: its opaque id, its request, and how long it took."""

    id: str
    job: str
    request: Request
    seconds: float
    created: float


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands; times are seconds since 1970, None where that has not happened."""

    id: str
    order: Order
    state: State
    created: float
    started: float | None = None
    finished: float | None = None
    error: str = ""
    pictures: tuple[Picture, ...] = ()
