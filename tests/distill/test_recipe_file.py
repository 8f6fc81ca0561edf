"""Recipes: what is refused and in which words, and that all shipped ones are sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssd1b.base.errors import MissingFileError, RecipeError
from ssd1b.distill import recipe_file
from ssd1b.plan import catalog

SMALL = """
name: small
common: {plan: mini-ssd, steps: 10, loss: {task: 2.0}}
stages:
  - {name: one, start: scratch}
  - {name: two, start: previous, steps: 20, loss: {output: 0.0}}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("name", recipe_file.shipped_names())
def test_every_shipped_recipe_is_sound_and_says_where_it_comes_from(name: str) -> None:
    path = recipe_file.find(name)
    recipe = recipe_file.read(path)
    assert recipe.name == name and recipe.about
    assert path.read_text().startswith("#")
    for stage in recipe.stages:
        catalog.find(stage.plan)


@pytest.mark.parametrize("name", [n for n in recipe_file.shipped_names() if n.startswith("mini")])
def test_every_mini_recipe_has_a_smoke_twin_of_the_same_stages(name: str) -> None:
    if not name.endswith("-smoke"):
        twin = recipe_file.read(recipe_file.find(f"{name}-smoke"))
        whole = recipe_file.read(recipe_file.find(name))
        assert [s.name for s in twin.stages] == [s.name for s in whole.stages]
        assert all(s.steps <= 2 for s in twin.stages)


def test_common_keys_go_to_every_stage_and_a_stages_own_win(small: Path) -> None:
    one, two = recipe_file.read(small).stages
    assert (one.steps, two.steps) == (10, 20)
    assert (one.loss.task, one.loss.output) == (2.0, 0.5)
    assert (two.loss.task, two.loss.output) == (2.0, 0.0)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("stages.0.steps=3", (3, 20)),
        ("stages.two.steps=3", (10, 3)),
        ("stages.*.steps=3", (3, 3)),
        ("common.steps=3", (3, 20)),
    ],
)
def test_a_setting_reaches_the_stages_it_names(small: Path, setting: str, expected: tuple[int, int]) -> None:
    assert tuple(stage.steps for stage in recipe_file.read(small, [setting]).stages) == expected


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("stages.0.stpes=3", "unknown key 'stages.0.stpes'. Did you mean 'steps'?"),
        ("stages.0.loss.featur=1", "Did you mean 'feature'?"),
        ("sed=1", "Did you mean 'seed'?"),
        ("steps=3", "It belongs to a stage"),
        ("stages.0.steps=ten", "'stages.0.steps'"),
        ("stages.0.steps=0", "greater than 0"),
        ("stages.0.batch=1.5", "'stages.0.batch'"),
        ("stages.0.weighting=loud", "'uniform', 'min-snr' or 'v'"),
        ("stages.7.steps=1", "there is no stage '7'"),
        ("stages.0=1", "name a key of the stage"),
        ("steps", "write it as key=value"),
        ("name.x=1", "nothing below"),
        ("stages.0.start=teacher", "needs a teacher"),
        ("stages.0.start=previous", "first stage cannot start"),
        ("stages.1.name=one", "same name"),
        ("stages.0.warmup=10", "does not fit into 10 steps"),
        ("stages=3", "'stages'"),
    ],
)
def test_a_wrong_key_or_value_is_named(small: Path, setting: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_file.read(small, [setting])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_can_be_written_as_its_difference_to_another(small: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin.yaml"
    twin.write_text("like: small\nname: twin\nset: {stages.two.steps: 5}\n")
    recipe = recipe_file.read(twin)
    assert recipe.name == "twin" and [s.steps for s in recipe.stages] == [10, 5]


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "not valid YAML"), ("- 1", "should be a mapping"), ("name: x", "'stages' is missing")],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError, match=words):
        recipe_file.read(tmp_path / "bad.yaml")


def test_a_recipe_that_is_not_there_is_nearly_named() -> None:
    with pytest.raises(MissingFileError, match="Did you mean 'mini-ssd'"):
        recipe_file.find("mini-sdd")
