"""Judging: every picture made once, whatever is asked, interrupted or repeated."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image
from tests.evaluate.fakes import FakeJudge, fake_examiner, fake_model

from ssd1b.base.errors import RequestError
from ssd1b.evaluate.judging import Examiner, batches, judge_model, key_of, settings_of
from ssd1b.evaluate.prompts import TOTAL, prompts
from ssd1b.evaluate.sheets import write_sheets
from ssd1b.generate.engines.fake import FakeDenoiser
from ssd1b.generate.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return fake_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSD1B_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(model: Model) -> int:
    """Pictures made so far: the fake's calls hold batch sizes, two calls a picture."""
    assert isinstance(model.denoiser, FakeDenoiser)
    return sum(model.denoiser.calls) // 2


def fresh(model: Model) -> Model:
    return dataclasses.replace(model, denoiser=FakeDenoiser())


def test_every_prompt_has_its_answer_in_order(model: Model) -> None:
    asked = prompts(12)
    answers = judge_model(fresh(model), fake_examiner(), asked, settings_of(model, None, None))
    assert tuple(answer.prompt for answer in answers) == asked
    for answer in answers:
        with Image.open(answer.picture) as picture:
            assert picture.size == answer.prompt.size_px


def test_what_is_known_is_not_made_again(model: Model) -> None:
    settings, examiner = settings_of(model, None, None), fake_examiner()
    first = judge_model(fresh(model), examiner, prompts(12), settings)
    again = fresh(model)
    second = judge_model(again, examiner, prompts(18), settings)
    assert made(again) == 6
    assert [a.reading for a in first] == [a.reading for a in second if a.prompt in prompts(12)]


def test_an_interrupted_evaluation_goes_on_where_it_stopped(model: Model) -> None:
    settings, examiner, heard = settings_of(model, None, None), fake_examiner(), []

    def stop_later(more: int) -> None:
        heard.append(more)
        if sum(heard) > 18:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge_model(fresh(model), examiner, prompts(24), settings, stop_later)
    rest = fresh(model)
    judge_model(rest, examiner, prompts(24), settings)
    assert made(rest) == 6


@pytest.mark.parametrize("change", ["steps", "guidance", "seed", "mark", "weights"])
def test_whatever_changes_a_picture_or_its_reading_changes_the_key(
    model: Model, change: str, tmp_path: Path
) -> None:
    settings, examiner, other = settings_of(model, 2, 1.0), fake_examiner(), model
    before = key_of(model, examiner, settings)
    if change == "mark":
        examiner = fake_examiner("another")
    elif change == "weights":
        other = fake_model(tmp_path / "other", "tiny-sdxl")
    else:
        settings = dataclasses.replace(settings, **{change: 3})
    assert key_of(other, examiner, settings) != before


def test_progress_adds_up_to_the_number_of_prompts(model: Model) -> None:
    heard: list[int] = []
    judge_model(fresh(model), fake_examiner(), prompts(12), settings_of(model, 7, 1.0), heard.append)
    assert sum(heard) == 12
    assert min(heard) >= 0


def test_a_batch_holds_pictures_of_one_size_only() -> None:
    cut = list(batches(prompts()))
    assert sum(map(len, cut)) == TOTAL
    assert all(len({prompt.size_px for prompt in batch}) == 1 and len(batch) <= 24 for batch in cut)


def test_a_model_for_photographs_is_refused_with_a_reason(model: Model) -> None:
    big = dataclasses.replace(model, shape=dataclasses.replace(model.shape, cross_attention_dim=2048))
    with pytest.raises(RequestError, match="only judges models of the mini world"):
        judge_model(big, fake_examiner(), prompts(6), settings_of(model, None, None))


def test_sheets_show_every_picture_of_a_kind(model: Model, tmp_path: Path) -> None:
    answers = judge_model(fresh(model), fake_examiner(), prompts(12), settings_of(model, None, None))
    sheets = write_sheets(answers, tmp_path / "sheets")
    assert len(sheets) == 6
    for sheet in sheets:
        with Image.open(sheet) as picture:
            assert picture.width > 2 * 128


def test_the_judge_sees_each_picture_once(model: Model) -> None:
    judge = FakeJudge()
    judge_model(fresh(model), Examiner(judge, "once"), prompts(12), settings_of(model, None, None))
    assert sum(judge.shown) == 12


def test_another_decoder_of_the_same_name_has_other_answers(model: Model, tmp_path: Path) -> None:
    settings, examiner = settings_of(model, None, None), fake_examiner()
    keys = set()
    for place, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        folder = tmp_path / place / "taesd"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(weights)
        keys.add(
            key_of(dataclasses.replace(model, decoder="taesd", decoder_folder=folder), examiner, settings)
        )
    assert len(keys) == 2
