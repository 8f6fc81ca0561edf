"""Grids of previews: what the pipeline draws with the same model, whoever draws it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssd1b.cli.trackers import TensorBoard
from ssd1b.distill.journal import Silent
from ssd1b.distill.ranks import Ranks
from ssd1b.distill.step import Objective
from ssd1b.evaluate import previews
from ssd1b.evaluate.previews import Grids, own_prompts
from ssd1b.evaluate.prompts import KINDS
from ssd1b.generate import load, pipeline
from ssd1b.generate.engines.torch import TorchDenoiser
from ssd1b.mini import embedded
from ssd1b.models.schedule import Schedule
from ssd1b.plan import catalog

PROMPTS = ("a red fox", "a blue boat", "two cups")


@dataclass(frozen=True)
class Pretended(Ranks):
    """One of two processes; the other one's share is handed to it."""

    heard: list[Any] = field(default_factory=list)

    def gather(self, value: Any) -> list[Any]:
        if value is None:  # nobody failed
            return [None, None]
        self.heard.append(value)
        return list(reversed(self.heard)) if self.rank == 0 else [value, value]


class Watching(Silent):
    def __init__(self) -> None:
        self.seen: list[tuple[Path, int]] = []

    def pictured(self, path: Path, total: int) -> None:
        self.seen.append((path, total))


@pytest.fixture(scope="module")
def student() -> torch.nn.Module:
    return unet("mini-ssd")


@pytest.fixture(scope="module")
def objective() -> Objective:
    return Objective(Schedule.sdxl(), teacher=unet("mini-sdxl"))


@pytest.fixture(autouse=True)
def two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = previews.defaults_of
    monkeypatch.setattr(previews, "defaults_of", lambda *told: replace(whole(*told), steps=2))


def unet(name: str) -> torch.nn.Module:
    model = load.load(name, device="cpu", dtype="float32", wish=load.TORCH)
    assert isinstance(model.denoiser, TorchDenoiser)
    return model.denoiser.unet


def grids(folder: Path, ranks: Ranks | None = None, watcher: Silent | None = None) -> Grids:
    parts = embedded.folder(embedded.PARTS)
    return Grids(parts, folder, PROMPTS, ranks or Ranks(), torch.device("cpu"), watcher or Silent())


def test_teacher_and_student_stand_side_by_side_as_the_pipeline_draws_them(
    student: torch.nn.Module, objective: Objective, tmp_path: Path
) -> None:
    watcher = Watching()
    grids(tmp_path, watcher=watcher).draw(student, objective, 40)
    assert watcher.seen == [(tmp_path / "previews" / "000040.png", 40)]
    with Image.open(watcher.seen[0][0]) as grid:
        tiles = np.asarray(grid)[previews.HEAD_PX :]
    for column, name in enumerate(("mini-sdxl", "mini-ssd")):
        model = load.load(name, device="cpu", dtype="float32", wish=load.TORCH)
        model = replace(model, defaults=replace(model.defaults, steps=2))
        (wanted,) = pipeline.sample(model, [previews.request_for(model, PROMPTS[0])])
        left = column * (tiles.shape[1] - wanted.width)
        assert np.array_equal(tiles[: wanted.height, left : left + wanted.width], np.asarray(wanted))


def test_two_processes_draw_the_grid_of_one(
    student: torch.nn.Module, objective: Objective, tmp_path: Path
) -> None:
    grids(tmp_path / "one").draw(student, objective, 1)
    shared: list[Any] = []
    for rank in (1, 0):
        grids(tmp_path / "two", Pretended(rank, 2, shared)).draw(student, objective, 1)
    name = Path("previews/000001.png")
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert [len(ours) for _, ours in shared] == [2, 2], "three prompts: as many calls on both"


def test_a_teacher_draws_once_and_a_new_one_again(
    student: torch.nn.Module, objective: Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.nn.Module] = []
    pictures = Grids._pictures
    monkeypatch.setattr(
        Grids, "_pictures", lambda self, unet, told: asked.append(unet) or pictures(self, unet, told)
    )
    drawing = grids(tmp_path)
    drawing.draw(student, objective, 1)
    drawing.draw(student, objective, 2)
    drawing.draw(student, replace(objective, teacher=student), 3)
    assert asked == [objective.teacher, student, student, student, student]
    assert len(list((tmp_path / "previews").iterdir())) == 3


def test_without_a_teacher_there_is_one_column(student: torch.nn.Module, tmp_path: Path) -> None:
    grids(tmp_path).draw(student, Objective(Schedule.sdxl()), 1)
    with Image.open(tmp_path / "previews" / "000001.png") as grid:
        assert grid.width == 128


def test_tensorboard_shows_the_grid_at_its_step(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    Image.new("RGB", (6, 4), "#2563eb").save(path)
    with TensorBoard(tmp_path / "tensorboard") as board:
        board.pictured(path, 40)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    (image,) = found.Images("previews")
    assert (image.step, image.width, image.height) == (40, 6, 4)


def test_a_recipe_that_says_nothing_draws_scenes_or_photographs() -> None:
    assert len(own_prompts(catalog.find("mini-ssd").shape)) == len(KINDS)
    assert any("lighthouse" in prompt for prompt in own_prompts(catalog.find("ssd-1b").shape))
