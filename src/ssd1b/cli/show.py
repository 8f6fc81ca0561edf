"""How the verbs speak: results on standard output, everything else on standard error.

Tables, progress bars with rate and time left, sentences, and the one JSON object of `--json`. This module
does not know what is shown.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ssd1b.base.units import human_bytes


def stdout() -> Console:
    """Return the console for results that a person reads."""
    return Console(highlight=False)


def stderr() -> Console:
    """Return the console for everything that is not the result."""
    return Console(stderr=True, highlight=False)


def say(sentence: str) -> None:
    """Print a sentence to standard error, unwrapped and unstyled."""
    stderr().print(sentence, markup=False, soft_wrap=True)


def print_json(record: object) -> None:
    """Print one JSON object to standard output, and nothing else."""
    sys.stdout.write(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output.

    Args:
        title: one line above it; rich markup.
        columns: headings; one that begins with ">" is aligned to the right. The first and those never wrap.
        rows: cells; rich markup.
    """
    grid = Table(
        title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for number, heading in enumerate(columns):
        right = heading.startswith(">")
        fixed = right or number == 0
        grid.add_column(heading.removeprefix(">"), justify="right" if right else "left", no_wrap=fixed)
    for row in rows:
        grid.add_row(*row)
    stdout().print(grid)


@contextmanager
def counting(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and time left on standard error; yield the function that says "n more are done".

    Args:
        what: what is being done, e.g. "generating".
        total: how many there are.
        unit: what is counted, e.g. "pictures", for the rate.
    """
    start, done = time.monotonic(), 0
    with _bar(MofNCompleteColumn()) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(more: int = 1) -> None:
            nonlocal done
            done += more
            per_second = done / max(time.monotonic() - start, 1e-9)
            bar.update(task, completed=done, rate=_rate(per_second, unit))

        yield advance


@contextmanager
def counting_bytes(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of bytes on standard error; yield the function that says "done bytes of total bytes"."""
    start = time.monotonic()
    with _bar(TextColumn("{task.fields[amount]}")) as bar:
        task = bar.add_task(what, total=None, amount="", rate="")

        def reached(done: int, total: int) -> None:
            per_second = done / max(time.monotonic() - start, 1e-9)
            amount = f"{human_bytes(done)} of {human_bytes(total)}"
            bar.update(task, completed=done, total=total, amount=amount, rate=f"{human_bytes(per_second)}/s")

        yield reached


def _bar(amount: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(30),
        amount,
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        console=stderr(),
    )


def _rate(per_second: float, unit: str) -> str:
    """Return a rate as it reads best: '3.2 pictures/s', or seconds apiece when slower than one a second."""
    if per_second >= 1:
        return f"{per_second:.1f} {unit}/s".replace(" /s", "/s")
    return f"{1 / per_second:.1f} s each" if per_second > 0 else ""
