"""`ssd1b distill` from the command line, on tiny models."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.distill import tiny

from ssd1b.cli import distill as verb
from ssd1b.cli.main import main
from ssd1b.cli.training_bar import TrainingBar
from ssd1b.distill.journal import Moment
from ssd1b.distill.stages import Providers

ROOT = Path(__file__).parents[2]
RECIPE = """
name: small
stages:
  - {name: one, plan: mini-ssd, start: scratch, steps: 2, batch: 2, log_every: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    find = Providers(tiny.plan, Path, lambda recipe, stage: tiny.TinyBatches(stage.batch, recipe.seed))
    monkeypatch.setattr(verb, "providers", lambda: find)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_is_trained_into_its_run_folder_and_then_is_done(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", str(recipe), "--set", "stages.one.steps=3", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and "one 3: task" in shown.err and "steps/s" in shown.err and "left" in shown.err
    assert json.loads(Path("runs/small/recipe.json").read_text())["stages"][0]["steps"] == 3
    assert Path("runs/small/student/unet/config.json").is_file()
    assert main(["distill", str(recipe), "--set", "stages.one.steps=3", "--device", "cpu"]) == 0
    assert "is done" in capsys.readouterr().err
    assert main(["distill", str(recipe), "--snapshot", "half"]) == 0
    assert "half is step 3" in capsys.readouterr().err
    assert Path("half/unet/config.json").is_file()
    Path("runs/small/losses.svg").unlink()
    assert main(["distill", str(recipe), "--curves"]) == 0
    assert Path("runs/small/losses.svg").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mini-sdd"], "Did you mean 'mini-ssd'"),
        (["small.yaml", "--set", "stages.0.stpes=1"], "Did you mean 'steps'"),
        (["small.yaml", "--device", "gpu"], "No device is called 'gpu'"),
        (["small.yaml", "--set", "stages.0.start=nowhere/model"], "nowhere"),
        (["small.yaml", "--snapshot", "x"], "no checkpoint yet"),
        (["small.yaml", "--curves"], "no log.jsonl"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_paragraph(
    recipe: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["distill", *words]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert said in shown and "Traceback" not in shown


def test_a_source_nobody_knows_is_refused() -> None:
    from ssd1b.base.errors import RecipeError
    from ssd1b.distill.recipe import Recipe

    plain = Recipe(name="x", source="moon", stages=(tiny.stage(),))
    with pytest.raises(RecipeError, match="no batch source 'moon'"):
        verb.batch_source(plain, plain.stages[0])
    with pytest.raises(RecipeError, match="needs `parts:`"):
        verb.batch_source(plain.model_copy(update={"source": "mini"}), plain.stages[0])


def test_the_bar_shows_losses_rates_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingBar() as bar:
        bar.stage_begins("one", 3, 10)
        bar.logged(Moment("one", 4, 4, {"task": 0.5, "output": 0.25}, 1e-3, 1.0, 2.0, 64.0, 90.0))
    said = capsys.readouterr().err
    assert "7 of 10 steps to go" in said
    assert "task 0.5000 output 0.2500" in said and "2.00 steps/s" in said and "64.0 samples/s" in said


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    (tmp_path / "small.yaml").write_text(RECIPE.replace("steps: 2", "steps: 500"))
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from ssd1b.cli import distill\nfrom ssd1b.cli.main import main\n"
        "from ssd1b.distill.stages import Providers\nfrom tests.distill import tiny\n"
        "find = Providers(tiny.plan, Path, lambda r, s: tiny.TinyBatches(s.batch, r.seed))\n"
        "distill.providers = lambda: find\n"
        "sys.exit(main(['distill', 'small.yaml', '--device', 'cpu']))\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("one 2:"):
                process.send_signal(signal.SIGTERM)
            last = line
    assert process.returncode == 0 and "the same command goes on from here" in last
    saved = list((tmp_path / "runs/small/steps").iterdir())
    assert len(saved) == 1 and 2 <= int(saved[0].name) < 500
