"""Whoever is killed, and whenever: the same command again ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.data import made

from ssd1b.data.places import Place
from ssd1b.data.runners import Alone

ROOT = Path(__file__).parents[2]
MANY, EACH = 16, 40


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return made.archives(tmp_path_factory.mktemp("in"), MANY, EACH)


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("one") / "out"
    made.ingested(source, out, "webdataset", Alone())
    return made.contents(out)


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A command in a process group of its own; what it says goes to a file."""
    with log.open("ab") as said:
        command = [sys.executable, *words]
        return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=said, stderr=said)


def wait_for(there: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 100) -> bool:
    """Until something is there; False if the process ended before."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if there():
            return True
        time.sleep(0.002)
    return False


def rows_of(out: Path) -> int:
    return len(list((out / ".work" / "rows").glob("*.parquet")))


def ingest_words(source: Path, out: Path) -> list[str]:
    words = ["-m", "ssd1b", "data", "ingest", str(source), "--out", str(out), "--side", "128"]
    return [*words, "--workers", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("when", [0, 1, 5, 12])
def test_one_worker_of_two_is_killed_and_the_command_ends_the_same(
    source, undisturbed, tmp_path, when
) -> None:
    out = tmp_path / "out"
    process = start(ingest_words(source, out), tmp_path / "log")
    assert wait_for(lambda: rows_of(out) >= when and bool(workers_of(process)), process)
    workers_of(process)[0].kill()
    assert process.wait(100) == 0, (tmp_path / "log").read_text()
    assert made.contents(out) == {**undisturbed, "report.html": (out / "report.html").read_bytes()}


@pytest.mark.slow
@pytest.mark.parametrize("when", [0, 3, 9])
def test_all_are_killed_and_the_same_command_ends_the_same(source, undisturbed, tmp_path, when) -> None:
    out = tmp_path / "out"
    process = start(ingest_words(source, out), tmp_path / "log")
    assert wait_for(lambda: rows_of(out) >= when and (out / ".work" / "plan.json").exists(), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.parquet").exists()
    again = start(ingest_words(source, out), tmp_path / "log")
    assert again.wait(100) == 0, (tmp_path / "log").read_text()
    assert made.contents(out) == {**undisturbed, "report.html": (out / "report.html").read_bytes()}


@pytest.mark.slow
def test_workers_that_encode_are_killed_and_the_same_command_ends_the_same(tmp_path) -> None:
    made.folder(tmp_path / "in", 90, ((128, 128), (192, 80), (80, 192), (144, 112), (96, 168)))
    for name in ("one", "two"):
        made.ingested(tmp_path / "in", tmp_path / name)

    def words(name: str, workers: int) -> list[str]:
        line = ["-m", "ssd1b", "data", "cache", str(tmp_path / name), "--model", "mini-parts", "--text"]
        return [*line, "--device", "cpu", "--workers", str(workers)]

    assert start(words("one", 1), tmp_path / "log").wait(100) == 0
    process = start(words("two", 2), tmp_path / "log")
    made_so_far = lambda: any((tmp_path / "two").rglob("*x*.safetensors"))  # noqa: E731
    assert wait_for(made_so_far, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start(words("two", 2), tmp_path / "log").wait(100) == 0
    assert made.contents(tmp_path / "one") == made.contents(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_ray_worker_is_killed_and_the_same_bytes_are_made(source, undisturbed, tmp_path) -> None:
    """In a process of its own: Ray talks to itself by sockets that this test suite does not allow."""
    out = tmp_path / "out"
    process = start(["-m", "tests.data.on_ray", str(source), str(out)], tmp_path / "log")
    assert wait_for(lambda: rows_of(out) >= 2 and bool(workers_of(process, "ray::_make")), process, 200)
    workers_of(process, "ray::_make")[0].kill()
    assert process.wait(200) == 0, (tmp_path / "log").read_text()
    assert made.contents(out) == undisturbed
    assert Place(str(out)).exists("manifest.parquet")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_of_ray_is_killed_and_the_same_command_ends_the_same(source, undisturbed, tmp_path) -> None:
    out = tmp_path / "out"
    process = start(["-m", "tests.data.on_ray", str(source), str(out)], tmp_path / "log")
    assert wait_for(lambda: rows_of(out) >= 3, process, 200)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for each in family:
        if each.is_running():
            each.kill()
    psutil.wait_procs(family, 20)
    assert not (out / "manifest.parquet").exists()
    again = start(["-m", "tests.data.on_ray", str(source), str(out)], tmp_path / "log")
    assert again.wait(200) == 0, (tmp_path / "log").read_text()
    assert made.contents(out) == undisturbed


def workers_of(process: subprocess.Popen[bytes], mark: str = "spawn_main") -> list[psutil.Process]:
    """The workers of a command."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if mark in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found
