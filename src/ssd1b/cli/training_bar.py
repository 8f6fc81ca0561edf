"""The progress display of a training run: a bar with losses, rates and the time left.

Knows rich and the trainer's `Watcher` protocol. Prints plain lines where there is no terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ssd1b.base.units import human_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from ssd1b.distill.journal import Moment

_LOSSES = ("task", "output", "feature")


class TrainingBar:
    """A watcher that draws. In a terminal a live bar per stage; elsewhere one line per logged step."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._close()

    def stage_begins(self, stage: str, step: int, steps: int) -> None:
        """Start a bar for the stage."""
        self._close()
        if not self._console.is_terminal:
            self.said(f"Stage {stage}: {steps - step} of {steps} steps to go.")
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            console=self._console,
        )
        self._task = self._bar.add_task(stage, total=steps, completed=step, facts="")
        self._bar.start()

    def stepped(self, stage: str, step: int) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step)

    def logged(self, moment: Moment) -> None:
        """Show the losses, the rates and the time left."""
        facts = _facts(moment)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, facts=facts)
        else:
            self.said(f"{moment.stage} {moment.step}: {facts}")

    def said(self, sentence: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(sentence, highlight=False, soft_wrap=True)

    def pictured(self, path: Path, total: int) -> None:
        """Say where the previews are."""
        self.said(f"Previews after {total} steps: {path}")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _facts(moment: Moment) -> str:
    losses = " ".join(f"{name} {moment.losses[name]:.4f}" for name in _LOSSES if name in moment.losses)
    rates = f"{moment.steps_per_s:.2f} steps/s {moment.samples_per_s:.1f} samples/s"
    return f"{losses}  {rates}  {human_seconds(moment.seconds_left)} left"
