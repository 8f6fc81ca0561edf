"""What happened during a run: one JSON line per logged step, and the same to whoever watches.

Knows the file log.jsonl and the arithmetic of rates. Does not know torch, bars or pictures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, Self

from ssd1b.base.crash import crash_point
from ssd1b.base.files import full_disk_named, write_atomic


@dataclass(frozen=True, slots=True)
class Moment:
    """A logged step. `step` counts within the stage, `total` in the run; losses are means since the last."""

    stage: str
    step: int
    total: int
    losses: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    steps_per_s: float
    samples_per_s: float
    seconds_left: float


class Watcher(Protocol):
    """Someone who wants to see a run: a progress bar, or a list in a test."""

    def stage_begins(self, stage: str, step: int, steps: int) -> None:
        """A stage of `steps` steps starts, or goes on after `step`."""
        ...

    def stepped(self, stage: str, step: int) -> None:
        """One optimizer step is done."""
        ...

    def logged(self, moment: Moment) -> None:
        """A log line was written."""
        ...

    def said(self, sentence: str) -> None:
        """Something a person should know happened (resumed, saved, stopped)."""
        ...

    def pictured(self, path: Path, total: int) -> None:
        """A grid of previews was written, after `total` steps of the run."""
        ...


class Silent:
    """A watcher that looks away."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def stage_begins(self, stage: str, step: int, steps: int) -> None:
        """Look away."""

    def stepped(self, stage: str, step: int) -> None:
        """Look away."""

    def logged(self, moment: Moment) -> None:
        """Look away."""

    def said(self, sentence: str) -> None:
        """Look away."""

    def pictured(self, path: Path, total: int) -> None:
        """Look away."""


class Journal:
    """Writes log.jsonl. Opened at a position, it first cuts off what was logged after it."""

    def __init__(self, path: Path | None, total: int) -> None:
        """Go on after `total` steps of the run; a path of None writes nothing (ranks other than 0)."""
        self._path = path
        if path is not None and path.exists():
            kept = [line for line in read(path) if _int(line.get("total")) <= total]
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, moment: Moment) -> None:
        """Append a logged step."""
        self._append(asdict(moment))

    def note(self, total: int, event: str, **facts: object) -> None:
        """Append an event (resumed, saved, stopped)."""
        self._append({"event": event, "total": total, **facts})

    def _append(self, line: Mapping[str, object]) -> None:
        if self._path is not None:
            with full_disk_named(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            crash_point("log line")


def read(path: Path) -> list[dict[str, object]]:
    """All whole lines of a log; a last line cut off by a crash is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


class Window:
    """Means and rates since the last log line."""

    def __init__(self) -> None:
        """Start empty, now."""
        self._restart()

    def _restart(self) -> None:
        self._since = time.monotonic()
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._samples = 0

    @property
    def names(self) -> list[str]:
        """Names of the losses taken in so far; none if no step was."""
        return list(self._sums)

    def add(self, losses: Mapping[str, float], samples: int) -> None:
        """Take in one step."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        self._samples += samples

    def close(self, names: Sequence[str]) -> tuple[dict[str, float], float, float]:
        """Mean of each named loss, steps/s and samples/s; then start again, now."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        means = {name: self._sums[name] / self._steps for name in names}
        rates = self._steps / seconds, self._samples / seconds
        self._restart()
        return means, *rates
