"""Dying at a named point, and only there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

SCRIPT = """
from ssd1b.base.crash import crash_point
for number in range(3):
    for name in ("one", "two"):
        print(name, number, flush=True)
        crash_point(name)
"""


def passed(asked: str | None, rank: str = "0") -> tuple[int, list[str]]:
    environment = {name: value for name, value in os.environ.items() if name != "SSD1B_CRASH_AT"}
    environment["RANK"] = rank
    if asked is not None:
        environment["SSD1B_CRASH_AT"] = asked
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("asked", "last"), [("one", "one 0"), ("two@2", "two 1"), ("*@5", "one 2"), ("two@1@0", "two 0")]
)
def test_a_process_dies_at_the_point_it_was_told(asked: str, last: str) -> None:
    status, lines = passed(asked)
    assert status == -signal.SIGKILL and lines[-1] == last


@pytest.mark.parametrize("asked", [None, "three", "one@4", "one@1@1"])
def test_it_lives_where_no_point_fits(asked: str | None) -> None:
    status, lines = passed(asked)
    assert status == 0 and len(lines) == 6
