"""`ssd1b distill --dry-run`: what it says, and what it refuses before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.distill import tiny

from ssd1b.base.errors import MissingFileError
from ssd1b.cli import distill as verb
from ssd1b.cli import dry_run
from ssd1b.cli.dry_run import Feed
from ssd1b.cli.main import main
from ssd1b.distill import probe
from ssd1b.distill.stages import Providers

STAGE = "{name: one, plan: mini-ssd, start: teacher, teacher: %s, steps: 20, batch: 4, ema: 0.9}"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe beside a tiny teacher; batches are the tests' own, the probe is short."""
    find = Providers(tiny.plan, Path, lambda recipe, stage: tiny.TinyBatches(stage.batch, recipe.seed))
    monkeypatch.setattr(verb, "providers", lambda: find)
    monkeypatch.setattr(dry_run, "feed_of", lambda recipe, stage, look: Feed(16, (64, 64), 1000, 0))
    rate = probe.matmul_rate
    monkeypatch.setattr(probe, "matmul_rate", lambda device, numbers: rate(device, numbers, 0.01))
    monkeypatch.setattr(probe, "SIDE", {"cpu": 256})
    monkeypatch.chdir(tmp_path)
    tiny.teacher_folder(tmp_path / "teacher")
    path = tmp_path / "small.yaml"
    path.write_text(f"name: small\nparts: teacher\nstages:\n  - {STAGE % 'teacher'}\n")
    return path


def test_a_dry_run_says_what_it_takes_and_leaves_nothing(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(recipe.parent.rglob("*"))
    assert main(["distill", "small.yaml", "--dry-run", "--ranks", "2", "--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(recipe.parent.rglob("*")) == before
    (stage,) = told["stages"]
    assert told["fits"] and told["ranks"] == 2 and told["recipe"]["stages"][0]["ema"] == 0.9
    assert stage["rows"] == 2 and stage["steps_left"] == 20
    assert stage["memory_total"] == sum(stage["memory"].values())
    assert stage["flops"] == sum(stage["work"].values())
    assert "measured" in stage["speed"]["how"]
    assert stage["speed"]["low"] < stage["speed"]["seconds"] < stage["speed"]["high"]
    assert told["hours"]["seconds"] == pytest.approx(20 * stage["speed"]["seconds"] / 3600)


def test_a_person_gets_tables_and_a_verdict(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "small.yaml", "--dry-run", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    for words in ("optimizer", "activations if recomputed", "steps/s", "checkpoints", "It fits."):
        assert words in shown


def test_what_does_not_fit_ends_with_status_2_and_says_what_would_help(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssd1b.models.device.free_bytes", lambda device: 1000)
    assert main(["distill", "small.yaml", "--dry-run", "--device", "cpu"]) == 2
    shown = " ".join(capsys.readouterr().out.split())
    assert "It does not fit." in shown and "gradient_checkpointing: true would take" in shown
    assert "computed" in shown, "no real step is tried where there is no room for it"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("stages.0.batch=5", "cannot be shared out evenly over 2 processes"),
        ("stages.0.teacher=nowhere/at/all", "no model at nowhere/at/all"),
        ("stages.0.start=./nowhere", "no model at ./nowhere"),
        ("stages.0.plan=mini-sdd", "Did you mean 'mini-ssd'"),
    ],
)
def test_what_would_stop_the_run_stops_the_dry_run(
    recipe: Path, capsys: pytest.CaptureFixture[str], setting: str, said: str
) -> None:
    assert main(["distill", "small.yaml", "--dry-run", "--ranks", "2", "--set", setting]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert said in shown and "Traceback" not in shown


def test_a_teacher_of_another_layout_is_refused_as_in_the_run(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads(Path("teacher/unet/config.json").read_text())
    Path("teacher/unet/config.json").write_text(json.dumps(config | {"attention_head_dim": [2, 2, 2]}))
    assert main(["distill", "small.yaml", "--dry-run"]) == 2
    assert "the teacher 'teacher'" in capsys.readouterr().err


def test_weights_cut_short_are_named(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = Path("teacher/unet/diffusion_pytorch_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    assert main(["distill", "small.yaml", "--dry-run"]) == 2
    assert str(weights.name) in " ".join(capsys.readouterr().err.split())


def test_another_recipes_folder_is_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/small").mkdir(parents=True)
    assert main(["distill", "small.yaml", "--set", "stages.0.steps=1", "--device", "cpu"]) == 0
    assert main(["distill", "small.yaml", "--dry-run"]) == 2
    assert "holds a run of another recipe" in " ".join(capsys.readouterr().err.split())


def test_plans_that_do_not_nest_are_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = "{name: two, plan: mini-ssd-mid, start: previous, teacher: teacher, steps: 1, batch: 4}"
    recipe.write_text(recipe.read_text() + f"  - {more}\n")
    assert main(["distill", "small.yaml", "--dry-run"]) == 2
    assert "Remove layers in the order in which the plans nest" in " ".join(capsys.readouterr().err.split())


def test_a_model_still_on_the_hub_is_said_to_be_unknown(tmp_path: Path) -> None:
    assert dry_run.layout_of("somebody/something") is None


def test_pictures_that_were_not_prepared_are_missed_before_training(tmp_path: Path) -> None:
    from ssd1b.distill.preflight import Look
    from ssd1b.distill.recipe import Recipe

    stage = tiny.stage(data={"path": str(tmp_path)})
    pictures = Recipe(name="x", source="images", parts="mini-parts", stages=(stage,))
    with pytest.raises(MissingFileError, match="no finished cache of latents"):
        dry_run.feed_of(pictures, stage, Look(tiny.plan, lambda name: None))


def test_the_mini_source_says_what_its_latents_take() -> None:
    from ssd1b.distill.preflight import Look
    from ssd1b.distill.recipe import Recipe

    stage = tiny.stage(data={"scenes": 18})
    plain = Recipe(name="x", source="mini", parts="mini-parts", stages=(stage,))
    feed = dry_run.feed_of(plain, stage, Look(tiny.plan, lambda name: None))
    square, other = 9 * 16 * 16, 14 * 18  # 144 x 112 px
    assert feed.samples == 18 and feed.latent_bytes > 8 * (square + other)
