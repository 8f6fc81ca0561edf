"""Preparing ahead gives what asking in turn gives, faults included."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tests.distill import tiny
from tests.distill.test_run import moments, weights

from ssd1b.distill.ahead import Ahead
from ssd1b.distill.stages import carry_out


def test_numbers_in_and_out_of_turn_are_answered_right() -> None:
    with Ahead(lambda number: number * number, last=9) as ahead:
        assert [ahead.at(number) for number in (0, 1, 2, 7, 8, 3, 4)] == [0, 1, 4, 49, 64, 9, 16]


def test_the_next_one_is_made_while_this_one_is_used() -> None:
    made: list[tuple[int, bool]] = []
    second = threading.Event()

    def make(number: int) -> int:
        made.append((number, threading.current_thread() is threading.main_thread()))
        if number == 1:
            second.set()
        return number

    with Ahead(make, last=1) as ahead:
        ahead.at(0)
        assert second.wait(10.0), "nobody asked for 1 yet, and it is made"
        ahead.at(1)
    assert made == [(0, True), (1, False)], "nothing past the last, nothing twice"


def test_a_fault_is_raised_where_its_number_is_asked_for() -> None:
    def make(number: int) -> int:
        if number == 1:
            raise OSError("the disk is gone")
        return number

    with Ahead(make, last=3) as ahead:
        assert ahead.at(0) == 0
        with pytest.raises(OSError, match="the disk is gone"):
            ahead.at(1)
        assert ahead.at(2) == 2


def test_a_run_that_prepares_ahead_ends_bit_identical(tmp_path: Path) -> None:
    stage = tiny.stage(steps=3, accumulate=2, batch=2, caption_dropout=0.5)
    ahead = tiny.run(tmp_path / "ahead", stage)
    in_turn = tiny.run(tmp_path / "turn", stage.model_copy(update={"prefetch": False}))
    assert carry_out(ahead) and carry_out(in_turn)
    assert weights(ahead.student) == weights(in_turn.student)
    assert [m["losses"] for m in moments(ahead)] == [m["losses"] for m in moments(in_turn)]
    assert carry_out(replace(in_turn, folder=ahead.folder)), "it is no other recipe"
