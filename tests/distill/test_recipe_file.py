"""Recipes: what is refused and in which words, and that all shipped ones are sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ssd1b.base.errors import MissingFileError, RecipeError
from ssd1b.distill import recipe_file
from ssd1b.distill.recipe import LossWeights, Recipe, Stage
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
        ("common.stpes=3", "unknown key 'common.stpes'. Did you mean 'steps'?"),
        ("common.loss.featur=3", "unknown key 'common.loss.featur'. Did you mean 'feature'?"),
        ("stages.0.loss.feature_level=site", "'stages.0.loss.feature_level'"),
        ("stages.0.loss.feature_level=site", "Did you mean 'sites'?"),
        ("stages.0.prediction=v_prediction", "'epsilon' or 'v'"),
        ("stages.0.noise_offset=-0.1", "greater than or equal to 0"),
        ("stages.0.loss.massive='5'", "'stages.0.loss.massive'"),
        ("stages.0.steps=[", "what follows the = is not valid YAML"),
        ("stagse.0.steps=3", "unknown key 'stagse'. Did you mean 'stages'?"),
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


@pytest.mark.parametrize(("text", "value"), [("2e-4", 2e-4), ("1.0e-5", 1e-5), ("5E-1", 0.5), ("0.5", 0.5)])
def test_a_number_may_be_written_as_people_do(small: Path, text: str, value: float) -> None:
    recipe = recipe_file.read(small, [f"stages.*.learning_rate={text}"])
    assert [stage.learning_rate for stage in recipe.stages] == [value, value]
    small.write_text(small.read_text().replace("steps: 10", f"steps: 10, learning_rate: {text}"))
    assert recipe_file.read(small).stages[0].learning_rate == value


def test_text_in_quotes_stays_text_and_aliases_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "name: a\nabout: '1e5'\nstages: [&one {name: one, plan: p, start: scratch, steps: 1},"
        " {<<: *one, name: two, start: previous}]\n"
    )
    recipe = recipe_file.read(tmp_path / "a.yaml")
    assert recipe.about == "1e5" and [s.steps for s in recipe.stages] == [1, 1]


def test_every_key_says_what_it_means() -> None:
    for level in (Recipe, Stage, LossWeights):
        silent = [name for name, key in level.model_fields.items() if not key.description]
        assert set(silent) <= {"stages", "loss"}, f"{level.__name__}: {silent}"


def test_every_key_of_a_stage_is_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "distill.md").read_text()
    named = set(re.findall(r"`([a-z_]+)`", page))
    assert set(Stage.model_fields) | set(LossWeights.model_fields) <= named


@pytest.mark.parametrize(
    ("value", "at"), [("ten", "steps"), ([1], "plan"), ({"a": 1}, "clip"), (True, "batch")]
)
def test_a_value_of_the_wrong_kind_is_named_with_its_place(small: Path, value: object, at: str) -> None:
    tree = yaml.safe_load(small.read_text())
    tree["stages"][1] |= {at: value}
    small.write_text(yaml.safe_dump(tree))
    with pytest.raises(RecipeError, match=rf"small\.yaml: 'stages\.1\.{at}"):
        recipe_file.read(small)


def test_a_recipe_that_is_its_own_difference_is_refused(tmp_path: Path) -> None:
    for name, like in (("one", "two"), ("two", "one")):
        (tmp_path / f"{name}.yaml").write_text(f"like: {like}\nname: {name}\n")
    with pytest.raises(RecipeError, match="difference to itself"):
        recipe_file.read(tmp_path / "one.yaml")


def test_a_recipe_can_be_written_as_its_difference_to_another(small: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin.yaml"
    twin.write_text("like: small\nname: twin\nset: {stages.two.steps: 5}\n")
    recipe = recipe_file.read(twin)
    assert recipe.name == "twin" and [s.steps for s in recipe.stages] == [10, 5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML"),
        ("a: 1\na: 2", "key 'a' is there twice"),
        ("- 1", "should be a mapping"),
        ("name: x", "'stages' is missing"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError, match=words):
        recipe_file.read(tmp_path / "bad.yaml")


def test_a_recipe_that_is_not_there_is_nearly_named() -> None:
    with pytest.raises(MissingFileError, match="Did you mean 'mini-ssd'"):
        recipe_file.find("mini-sdd")
