"""Work in a process of its own: its result, its progress, its errors and its death come back."""

from __future__ import annotations

import os
import signal

import pytest

from ssd1b.base.apart import Heard, run_apart
from ssd1b.base.errors import LayoutError, RequestError


def unheard(what: str, done: int, total: int) -> None: ...


def doubled(number: int, heard: Heard) -> tuple[int, int]:
    heard("doubling", 1, 1)
    return 2 * number, os.getpid()


def refused(heard: Heard) -> None:
    raise LayoutError("this does not fit")


def killed(heard: Heard) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_result_and_the_progress_come_back_from_another_process() -> None:
    heard: list[tuple[str, int, int]] = []
    result, pid = run_apart(doubled, 21, heard=lambda *told: heard.append(told))
    assert (result, heard) == (42, [("doubling", 1, 1)])
    assert pid != os.getpid()


def test_an_error_that_a_person_can_mend_comes_back_as_it_is() -> None:
    with pytest.raises(LayoutError, match="this does not fit"):
        run_apart(refused, heard=unheard)


def test_a_process_that_runs_out_of_memory_is_said_to_have() -> None:
    with pytest.raises(RequestError, match=r"'killed' ended without an answer \(exit -9\).*memory runs out"):
        run_apart(killed, heard=unheard)
