"""Unchanged maths, identical losses: a tiny faithful and a tiny normalised run against recorded numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.distill import tiny

from ssd1b.distill import journal
from ssd1b.distill.stages import carry_out

GOLDEN = Path(__file__).with_name("golden_losses.json")


def losses_of(folder: Path, mode: str) -> list[dict[str, float]]:
    """Three steps of carve-and-distil; made anew with `python -m tests.distill.test_golden`."""
    teacher = tiny.teacher_folder(folder / "teacher")
    loss = {"feature_mode": mode}
    stage = tiny.stage(
        start="teacher", teacher=str(teacher), steps=3, batch=2, weighting="v", loss=loss, caption_dropout=0.2
    )
    run = tiny.run(folder / "run", stage)
    carry_out(run)
    log = journal.read(run.folder / "log.jsonl")
    return [line["losses"] for line in log if "losses" in line]  # type: ignore[misc]


@pytest.mark.parametrize("mode", ["faithful", "normalised"])
def test_losses_are_the_recorded_ones(tmp_path: Path, mode: str) -> None:
    expected = json.loads(GOLDEN.read_text())["losses"][mode]
    for ours, theirs in zip(losses_of(tmp_path, mode), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)


def record() -> None:
    """Write the golden file; see the README beside it for when that is right."""
    import tempfile

    found = {}
    for mode in ("faithful", "normalised"):
        with tempfile.TemporaryDirectory() as folder:
            found[mode] = losses_of(Path(folder), mode)
    about = "Losses of the first three steps of a tiny distillation, made by tests/distill/test_golden.py."
    GOLDEN.write_text(json.dumps({"about": about, "losses": found}, indent=1) + "\n")


if __name__ == "__main__":
    record()
