"""Unchanged maths, identical losses: a tiny run in every mode of the losses against recorded numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.distill import tiny

from ssd1b.distill import journal
from ssd1b.distill.stages import carry_out

GOLDEN = Path(__file__).with_name("golden_losses.json")

# Each row differs from the first by its keys of `loss` and of the stage.
MODES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "faithful": ({}, {}),
    "normalised": ({"feature_mode": "normalised"}, {}),
    "blocks": ({"feature_level": "blocks"}, {}),
    "self-attention": ({"feature_level": "self-attention"}, {}),
    "massive": ({"massive": 5.0}, {}),
    "massive-normalised": ({"massive": 5.0, "feature_mode": "normalised"}, {}),
    "p2": ({"feature_weighting": "p2"}, {}),
    "feature-min-snr": ({"feature_weighting": "min-snr"}, {"batch": 8}),  # enough to draw a clean picture
    "min-snr": ({}, {"weighting": "min-snr"}),
    "v-prediction": ({}, {"prediction": "v", "weighting": "uniform"}),
    "v-prediction-min-snr": ({}, {"prediction": "v", "weighting": "min-snr"}),
    "noise-offset": ({}, {"noise_offset": 0.1}),
    "input-perturbation": ({}, {"input_perturbation": 0.1}),
    "vega": ({}, {"plan": "mini-vega"}),
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.teacher_folder(tmp_path_factory.mktemp("models") / "teacher")


def losses_of(folder: Path, teacher: Path, mode: str) -> list[dict[str, float]]:
    """Three steps of carve-and-distil; made anew with `python -m tests.distill.test_golden`."""
    loss, changes = MODES[mode]
    common = {"steps": 3, "batch": 2, "weighting": "v", "caption_dropout": 0.2}
    stage = tiny.stage(start="teacher", teacher=str(teacher), loss=loss, **(common | changes))
    run = tiny.run(folder / "run", stage)
    carry_out(run)
    log = journal.read(run.folder / "log.jsonl")
    return [line["losses"] for line in log if "losses" in line]  # type: ignore[misc]


@pytest.mark.parametrize("mode", MODES)
def test_losses_are_the_recorded_ones(tmp_path: Path, teacher: Path, mode: str) -> None:
    expected = json.loads(GOLDEN.read_text())["losses"][mode]
    for ours, theirs in zip(losses_of(tmp_path, teacher, mode), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)


def test_every_mode_gives_losses_of_its_own() -> None:
    recorded = json.loads(GOLDEN.read_text())["losses"]
    assert list(recorded) == list(MODES)
    assert len({json.dumps(losses) for losses in recorded.values()}) == len(MODES)


def record() -> None:
    """Write the golden file; see the README beside it for when that is right."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        teacher = tiny.teacher_folder(Path(folder) / "teacher")
        found = {mode: losses_of(Path(folder) / mode, teacher, mode) for mode in MODES}
    about = "Losses of the first three steps of a tiny distillation, made by tests/distill/test_golden.py."
    GOLDEN.write_text(json.dumps({"about": about, "losses": found}, indent=1) + "\n")


if __name__ == "__main__":
    record()
