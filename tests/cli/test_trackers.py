"""Trackers: what TensorBoard's own reader finds, and what the hosted ones are told."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.distill import tiny

from ssd1b.base.errors import RecipeError
from ssd1b.cli.trackers import Several, check, watchers
from ssd1b.distill.journal import Moment
from ssd1b.distill.recipe import Recipe


def recipe(*track: str) -> Recipe:
    return Recipe(name="small", stages=(tiny.stage(),), track=track)


def moment(total: int, task: float) -> Moment:
    losses = {"task": task, "feature/mid_block": 2.0}
    return Moment("one", total, total, losses, 1e-3, 1.5, 2.0, 64.0, 90.0)


def drawn(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_tensorboard_reads_every_loss_at_the_runs_step_and_needs_no_tensorflow(tmp_path: Path) -> None:
    with Several(watchers(recipe("tensorboard"), tmp_path)) as watcher:
        watcher.logged(moment(10, 0.5))
        watcher.logged(moment(20, 0.25))
    found = drawn(tmp_path)
    assert [(each.step, each.value) for each in found.Scalars("loss/task")] == [(10, 0.5), (20, 0.25)]
    assert found.Scalars("feature/mid_block")[0].value == 2.0
    assert {"train/learning_rate", "train/gradient_norm"} <= set(found.Tags()["scalars"])
    assert "tensorflow" not in sys.modules


def test_a_resumed_run_hides_what_it_draws_again(tmp_path: Path) -> None:
    for totals in ((10, 20, 30), (20, 30)):
        with Several(watchers(recipe("tensorboard"), tmp_path)) as watcher:
            for total in totals:
                watcher.logged(moment(total, float(len(totals))))
    values = [(each.step, each.value) for each in drawn(tmp_path).Scalars("loss/task")]
    assert values == [(10, 3.0), (20, 2.0), (30, 2.0)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_hosted_trackers_are_told_recipe_numbers_and_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, object]] = []
    fake = SimpleNamespace(
        init=lambda **facts: told.append(("init", facts)),
        log=lambda values, step: told.append(
            ("log", (values.get("loss/task", values.get("previews")), step))
        ),
        Image=lambda path: f"picture {path}",
        finish=lambda: told.append(("finish", None)),
    )
    monkeypatch.setitem(sys.modules, name, fake)
    with Several(watchers(recipe(name), tmp_path / "hot")) as watcher:
        watcher.logged(moment(10, 0.5))
        watcher.pictured(Path("grid.png"), 20)
    assert [what for what, _ in told] == ["init", "log", "log", "finish"]
    facts = told[0][1]
    assert isinstance(facts, dict)
    assert facts["name"] == "hot" and facts["config"]["stages"][0]["plan"] == "mini-ssd"
    assert told[1][1] == (0.5, 10) and told[2][1] == ("picture grid.png", 20)


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_named_before_training(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RecipeError, match=f"'{name}', which is not installed"):
        check(recipe(name))
