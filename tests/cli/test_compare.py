"""`ssd1b compare` from the command line to the page, on tiny random models."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from tests.evaluate.fakes import fake_examiner, fake_model
from tests.evaluate.test_page import images_of, outside_of, parsed
from tests.tiny import tiny_pipeline

from ssd1b.base.errors import RequestError
from ssd1b.cli.compare import Effort, compare, labelled, write
from ssd1b.cli.main import main
from ssd1b.evaluate import judging
from ssd1b.evaluate.report import Contender
from ssd1b.generate.model import Model
from ssd1b.plan.count import parameters
from ssd1b.plan.shape import shape_of

FAST = ["--prompts", "6", "--steps", "1", "--guidance", "1", "--quick"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("models")
    return tiny_pipeline(home / "teacher", "tiny-sdxl"), tiny_pipeline(home / "student", "tiny-ssd", seed=1)


@pytest.fixture(scope="module")
def report(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """One comparison for all tests to look at; its JSON, as printed."""
    out = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD1B_CACHE", str(out / "cache"))
        patch.setattr(judging, "scene_reader", fake_examiner)
        words = ["compare", f"teacher={models[0]}", f"mine={models[1]}", "--out", str(out / "report"), *FAST]
        assert main(words) == 0
    return json.loads((out / "report" / "report.json").read_text())


def test_json_says_size_work_time_and_scores_of_each_model(
    report: dict[str, object], models: tuple[Path, Path]
) -> None:
    teacher, student = report["models"]
    assert (teacher["name"], student["name"]) == ("teacher", "mine")
    for said, folder in zip((teacher, student), models, strict=True):
        config = json.loads((folder / "unet" / "config.json").read_text())
        assert said["params"] == parameters(shape_of(config))
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        assert said["bytes"] == weights.stat().st_size
        assert said["flops"] > 0
        assert said["seconds_per_picture"] > 0
        assert 0 <= said["overall"] <= 1
    assert report["speedup"]["mine"] == pytest.approx(
        teacher["seconds_per_picture"] / student["seconds_per_picture"], rel=0.01
    )
    assert {"command", "date", "commit", "device"} <= set(report["measured"])


def test_the_page_is_one_file_with_all_its_pictures(report: dict[str, object]) -> None:
    page = Path(report["report"])
    text = page.read_text()
    assert not outside_of(text)
    shots, sizes = 6, 9
    assert len([one for one in images_of(parsed(text)) if one.startswith("data:image/webp")]) == 2 * (
        shots + sizes
    )


def test_markdown_names_files_that_are_there(report: dict[str, object]) -> None:
    folder = Path(report["report"]).parent
    named = re.findall(r"\]\(([^)]+)\)", (folder / "report.md").read_text())
    assert named
    assert all((folder / name).is_file() for name in named)


def test_one_model_is_no_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "mini-sdxl", "--out", str(tmp_path)]) == 2
    assert "at least two models" in capsys.readouterr().err


def test_a_label_stands_before_an_equals_sign(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "hot" / "student"
    folder.mkdir(parents=True)
    strange = tmp_path / "a=b"
    strange.mkdir()
    assert labelled(f"mine={folder}") == ("mine", str(folder))
    assert labelled(str(folder)) == ("hot", str(folder))
    assert labelled("mini-ssd") == ("mini-ssd", "mini-ssd")
    assert labelled(str(strange)) == ("a=b", str(strange))


def test_models_for_photographs_are_shown_and_timed_but_not_judged(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "miniature", property(lambda _: False))
    pair = [Contender(name, name, fake_model(folder)) for name, folder in zip("ab", models, strict=True)]
    found = compare(pair, Effort(steps=1, guidance=1.0, quick=True))
    assert len(found.shots) == 4
    assert len(found.aspects) == 9
    assert all(one.passed is None for shot in found.shots for one in shot.pictures)
    assert all(entry.scores is None for entry in found.entries)
    assert "scores" not in found.headline()
    assert write(found, tmp_path / "report").is_file()


def test_models_of_different_native_sizes_are_not_compared(models: tuple[Path, Path]) -> None:
    small = fake_model(models[0])
    big = dataclasses.replace(small, shape=dataclasses.replace(small.shape, sample_size=128))
    with pytest.raises(RequestError, match="different native sizes"):
        compare([Contender("small", "small", small), Contender("big", "big", big)], Effort())
