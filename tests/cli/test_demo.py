"""`ssd1b demo` in its steps: what is finished is not done again, what fails says so."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from tests.tiny import tiny_pipeline

from ssd1b.base.errors import UserError
from ssd1b.cli import demo, processes
from ssd1b.cli.main import main
from ssd1b.generate import load
from ssd1b.plan import catalog
from ssd1b.plan.shape import shape_of


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("models") / "teacher", "mini-sdxl")


def test_the_student_is_carved_once(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    monkeypatch.setattr(load, "find", lambda _: teacher)
    demo.carve(tmp_path / "carved")
    config = json.loads((tmp_path / "carved" / "unet" / "config.json").read_text())
    assert shape_of(config) == catalog.find("mini-ssd").shape
    before = (tmp_path / "carved" / "model_index.json").stat().st_mtime_ns
    demo.carve(tmp_path / "carved")
    assert (tmp_path / "carved" / "model_index.json").stat().st_mtime_ns == before
    assert "is there" in capsys.readouterr().err


def test_a_distillation_that_fails_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "run_ranks", lambda *_: 3)
    with pytest.raises(UserError, match=r"status 3.*same command again"):
        demo.distil(tmp_path / "run", "mini-demo", 4)


def test_two_cores_train_as_two_ranks_with_a_thread_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(processes, "run_ranks", lambda *given: asked.append(given) or 1)
    for cores in (1, 2, 8):
        monkeypatch.setattr(demo, "_cores", lambda cores=cores: cores)
        with pytest.raises(UserError):
            demo.distil(tmp_path / "run", "mini-demo", 4)
    assert [given[1:] for given in asked] == [(1, 1), (2, 1), (2, 4)]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, pathlib, signal, time\n{code}"]


def test_ranks_know_their_place_and_one_address() -> None:
    said = "os.environ['RANK'] + os.environ['WORLD_SIZE'] + os.environ['MASTER_PORT']"
    assert processes.run_ranks(python(f"raise SystemExit(0 if len({said}) > 3 else 1)"), 2, 1) == 0
    assert processes.run_ranks(python("raise SystemExit('RANK' in os.environ)"), 1, 1) == 0


def test_when_one_rank_fails_the_others_are_not_waited_for_in_vain() -> None:
    code = "raise SystemExit(5) if os.environ['RANK'] == '1' else time.sleep(60)"
    assert processes.run_ranks(python(code.replace("raise SystemExit(5)", "os._exit(5)")), 2, 1) in (5, -15)


def test_an_interrupted_run_is_waited_for(tmp_path: Path) -> None:
    """Ctrl-C goes to parent and children alike; they save before the parent gives up."""
    saves = (
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(0.6)\n"
        f"pathlib.Path({str(tmp_path / 'saved')!r}).touch()\n"
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" would have it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            processes.run_ranks(python(saves), 1, 1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "saved").exists()


def test_half_the_minutes_are_half_the_steps() -> None:
    whole, half = demo._steps("mini-demo", 4), demo._steps("mini-demo", 2)
    assert half == [pytest.approx(steps / 2, abs=1) for steps in whole]


def test_no_minutes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--minutes", "0"]) == 2
    assert "not a time to distil" in capsys.readouterr().err
