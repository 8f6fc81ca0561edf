"""Workers may die at any moment: what is made is the same."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import psutil
import pytest
from tests.data.made import Numbers

from ssd1b.base.errors import DataError
from ssd1b.data import leases
from ssd1b.data.leases import leased
from ssd1b.data.places import Place
from ssd1b.data.runners import Alone, Pool


@pytest.mark.parametrize("runner", [Alone(), Pool(2)], ids=["alone", "pool"])
def test_every_shard_is_made_once_and_the_same_run_again_makes_none(runner, tmp_path) -> None:
    work, heard = Numbers(str(tmp_path)), []
    runner.run(work, heard.append)
    assert list(work.finished()) == work.shards() and sum(heard) == 60
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.txt")}
    runner.run(work, heard.append)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.txt")} == before
    assert sum(heard) == 120
    assert not list(tmp_path.rglob("*.lease"))


def test_a_worker_that_is_killed_is_survived(tmp_path) -> None:
    work = Numbers(str(tmp_path), deadly_once=("s2",), seconds=0.05)
    Pool(2).run(work, lambda more: None)
    assert list(work.finished()) == work.shards() and (tmp_path / "s2.died").exists()


def test_when_all_workers_are_killed_it_is_said_and_the_same_command_goes_on(tmp_path) -> None:
    with pytest.raises(DataError, match=r"All 2 workers were killed.*of 6 shards were finished"):
        Pool(2).run(Numbers(str(tmp_path), deadly=("s1", "s4")), lambda more: None)
    work = Numbers(str(tmp_path))
    Pool(2).run(work, lambda more: None)
    assert list(work.finished()) == work.shards()


def test_what_the_user_can_fix_is_raised_as_it_was_in_the_worker(tmp_path) -> None:
    with pytest.raises(DataError, match="s3 is wrong"):
        Pool(2).run(Numbers(str(tmp_path), wrong=("s3",)), lambda more: None)


def test_a_lease_is_held_by_one_and_given_back(tmp_path) -> None:
    place = Place(str(tmp_path))
    with leased(place, "a.lease") as mine:
        assert mine
        with leased(place, "a.lease") as again:
            assert not again
        with leased(place, "b.lease") as other:
            assert other
    assert list(place.files()) == []


def _lease(host: str, pid: int, born: float, beat: float) -> bytes:
    return json.dumps({"host": host, "pid": pid, "born": born, "beat": beat}).encode()


@pytest.mark.parametrize(
    ("content", "free"),
    [
        (_lease(socket.gethostname(), 2**22 + 1, 0.0, time.time()), True),  # a process that is no more
        (_lease(socket.gethostname(), os.getpid(), 1.0, time.time()), True),  # its number, used again
        (_lease(socket.gethostname(), os.getpid(), psutil.Process().create_time(), 0.0), False),
        (_lease("elsewhere", 1, 0.0, time.time()), False),
        (_lease("elsewhere", 1, 0.0, time.time() - leases.SILENCE_S - 1), True),
        (b"", True),
    ],
    ids=["dead", "number used again", "alive", "elsewhere", "elsewhere and silent", "broken"],
)
def test_a_lease_counts_as_long_as_its_holder_may_be_at_work(tmp_path, content, free) -> None:
    (tmp_path / "a.lease").write_bytes(content)
    with leased(Place(str(tmp_path)), "a.lease") as mine:
        assert mine is free


def test_a_shard_whose_worker_died_elsewhere_is_waited_for_no_longer_than_its_silence(tmp_path) -> None:
    work = Numbers(str(tmp_path), many=1)
    (tmp_path / "leases").mkdir()
    held = tmp_path / "leases" / "s0.lease"
    held.write_bytes(_lease("elsewhere", 1, 0.0, time.time() - leases.SILENCE_S + 3))
    start = time.monotonic()
    Pool(1).run(work, lambda more: None)
    assert list(work.finished()) == ["s0"] and time.monotonic() - start > 1
    assert not Path(held).exists()
