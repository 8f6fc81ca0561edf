"""`ssd1b evaluate` on tiny random models, with a judge that answers at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.evaluate.fakes import fake_examiner
from tests.tiny import tiny_pipeline

from ssd1b.cli.main import main
from ssd1b.evaluate import judging
from ssd1b.evaluate.prompts import KINDS

FAST = ["--prompts", "6", "--steps", "1", "--guidance", "1"]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSD1B_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(judging, "scene_reader", fake_examiner)


def test_json_is_one_object_with_every_score(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(student), "--json", *FAST]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["scores"]) == set(KINDS)
    assert said["overall"] == pytest.approx(sum(said["scores"].values()) / 6, abs=1e-3)
    assert set(said["intervals"]) == {*KINDS, "overall"}
    assert (said["prompts"], said["steps"], said["guidance"]) == (6, 1, 1.0)
    assert said["reader_accuracy"]["object"] == 0.98
    assert said["seconds"] >= 0


def test_people_get_a_table_with_intervals_and_the_readers_own_accuracy(
    student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(student), *FAST]) == 0
    said = capsys.readouterr().out
    assert "two objects" in said
    assert "overall" in said
    assert "object 98.0%" in said


def test_out_saves_a_sheet_per_kind(student: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(student), "--out", str(tmp_path / "sheets"), *FAST]) == 0
    assert {path.stem for path in (tmp_path / "sheets").glob("*.png")} == set(KINDS)


def test_a_hub_model_is_refused_before_anything_is_downloaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "segmind/SSD-1B"]) == 2
    assert "nothing was downloaded" in capsys.readouterr().err


def test_a_full_size_folder_is_refused_before_its_weights_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ssd1b.plan import catalog

    (tmp_path / "big" / "unet").mkdir(parents=True)
    config = json.dumps(catalog.find("ssd-1b").unet_config())
    (tmp_path / "big" / "unet" / "config.json").write_text(config)
    assert main(["evaluate", str(tmp_path / "big")]) == 2
    assert "only judges models of the mini world" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "mini-sd"]) == 2
    assert "mini-sd" in capsys.readouterr().err


def test_a_package_without_the_reader_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], student: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(judging, "files", lambda _: tmp_path)
    assert main(["evaluate", str(student), *FAST]) == 2
    assert "built without the scene reader" in capsys.readouterr().err
