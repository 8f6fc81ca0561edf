"""The next batch, prepared while the step runs.

Knows that preparing is a pure function of a number that counts up. Does not know what is prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Answers `make(number)`, and has a thread make the one after it; numbers out of turn are made at once.

    What `make` raises is raised where its number is asked for. Nobody else may call `make` meanwhile.
    """

    def __init__(self, make: Callable[[int], T], last: int, *, ahead: bool = True) -> None:
        """Make nothing past `last`; without `ahead` everything is made when it is asked for."""
        self.make, self.last, self.ahead = make, last, ahead
        self.waiting: tuple[int, Future[T]] | None = None
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")

    def at(self, number: int) -> T:
        """What `make(number)` gives."""
        if self.waiting is not None and self.waiting[0] == number:
            made = self.waiting[1].result()
        else:
            self._drop()
            made = self.make(number)
        follows = self.ahead and number < self.last
        self.waiting = (number + 1, self.thread.submit(self.make, number + 1)) if follows else None
        return made

    def _drop(self) -> None:
        """Let a number that nobody asks for any more come to its end."""
        if self.waiting is not None:
            self.waiting[1].exception()
            self.waiting = None

    def __enter__(self) -> Self:
        """Nothing is made before the first question."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread; what it made last is thrown away."""
        self._drop()
        self.thread.shutdown()
