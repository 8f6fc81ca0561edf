"""A stage's teacher by every kind of name, and the smoke twins of the shipped recipes, on real parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from tests.distill import tiny
from tests.formats.hub_server import Hub, serve
from tests.tiny import tiny_pipeline

from ssd1b.base.errors import LayoutError
from ssd1b.cli import distill as verb
from ssd1b.distill import journal, recipe_file
from ssd1b.distill.recipe import Recipe, Stage
from ssd1b.distill.stages import Providers, Run, carry_out
from ssd1b.formats.diffusers_folder import open_folder
from ssd1b.formats.safetensors_io import write_file
from ssd1b.formats.single_file import to_single_file
from ssd1b.generate import unpack
from ssd1b.plan.layers import cut

PARTS = tiny.SHAPE.config()
TWINS = [name for name in recipe_file.shipped_names() if name.endswith("-smoke")]
QUICK = "vega-smoke"  # the one that `make test` runs too
# What a twin may change: how much is done, and who stands in for whom.
SIZES = {"plan", "teacher", "start", "steps", "batch", "accumulate", "warmup"}
SIZES |= {"checkpoint_every", "log_every", "data"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete random teacher of the tiny widths, as a diffusers folder."""
    place = tmp_path_factory.mktemp("teachers") / "folder"
    return tiny_pipeline(place, "mini-sdxl", **{k: v for k, v in PARTS.items() if k != "_class_name"})


@pytest.fixture
def single_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same teacher as A1111 has it; tokenizers, which such files lack, come from the folder."""
    monkeypatch.setenv("SSD1B_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(unpack, "_embedded_twin", lambda _words: folder)
    file = to_single_file(open_folder(folder))
    write_file(tmp_path / "teacher.safetensors", file.tensors, metadata=file.metadata)
    return tmp_path / "teacher.safetensors"


@pytest.fixture
def hub_id(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same teacher on a hub on this machine."""
    with serve(Hub({"someone/teacher": folder})) as running:
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield "someone/teacher"


def taught_by(name: str, place: Path, plan: str = "mini-ssd") -> Run:
    """One step under the teacher of this name, found as the command line finds it."""
    find = Providers(tiny.plan, verb.model_folder, lambda r, s: tiny.TinyBatches(s.batch, r.seed))
    stage = tiny.stage(plan=plan, start="teacher", teacher=name, steps=1, batch=1)
    run = Run(Recipe(name="tiny", stages=(stage,)), place, find)
    carry_out(run)
    return run


def test_a_folder_a_single_file_and_a_hub_id_teach_the_same(
    folder: Path, single_file: Path, hub_id: str, tmp_path: Path
) -> None:
    runs = [
        taught_by(name, tmp_path / f"run-{number}")
        for number, name in enumerate((str(folder), str(single_file), hub_id))
    ]
    losses = [journal.read(run.folder / "log.jsonl")[0]["losses"] for run in runs]
    assert losses[0] == losses[1] == losses[2]
    weights = [(run.student / "unet/diffusion_pytorch_model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1] == weights[2]
    assert all((run.student / "tokenizer_2").is_dir() for run in runs)


def test_a_single_file_of_another_layout_than_the_plans_is_named_with_both(
    single_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    middle = tiny.plan("mini-ssd-mid").shape
    small = cut(middle, name="small", kept=dict.fromkeys(middle.depths, (0,)))
    monkeypatch.setattr(tiny, "plan", lambda _name: small)
    with pytest.raises(LayoutError) as caught:
        taught_by(str(single_file), tmp_path / "run")
    said = str(caught.value)
    assert "teacher.safetensors' has the layout of 'sdxl'" in said
    assert "plan 'small' is cut from 'sdxl-mid'" in said
    assert not (tmp_path / "run" / "student").exists()


@pytest.mark.parametrize("name", TWINS)
def test_a_smoke_twin_is_its_recipe_but_for_sizes_and_stand_ins(name: str) -> None:
    twin = recipe_file.read(recipe_file.find(name))
    whole = recipe_file.read(recipe_file.find(name.removesuffix("-smoke")))
    assert [stage.name for stage in twin.stages] == [stage.name for stage in whole.stages]
    for small, large in zip(twin.stages, whole.stages, strict=True):
        changed = {key for key in Stage.model_fields if getattr(small, key) != getattr(large, key)}
        assert changed <= SIZES, f"{name}, {small.name}: {changed - SIZES}"
        assert small.steps <= 2 and (small.teacher is None) == (large.teacher is None)


def test_every_shipped_recipe_has_a_smoke_twin() -> None:
    whole = {name for name in recipe_file.shipped_names() if not name.endswith("-smoke")}
    assert {f"{name}-smoke" for name in whole} == set(TWINS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in TWINS]
)
def test_every_smoke_twin_runs_to_its_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSD1B_CACHE", str(tmp_path / "cache"))
    recipe = recipe_file.read(recipe_file.find(name))
    run = Run(recipe, tmp_path / "run", verb.providers())
    assert carry_out(run)
    moments = [line for line in journal.read(run.folder / "log.jsonl") if "losses" in line]
    assert [(m["stage"], m["step"]) for m in moments] == [
        (stage.name, step) for stage in recipe.stages for step in range(1, stage.steps + 1)
    ]
    for stage, moment in ((s, m) for s in recipe.stages for m in moments if m["stage"] == s.name):
        assert ("feature" in moment["losses"]) == stage.distils
    assert json.loads((run.student / "manifest.json").read_text())["run"] == name
