"""The acceptance script, on as many files as there is time for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("n", [700])
def test_damage_that_was_planted_is_listed_exactly_and_the_rest_is_trained_on(tmp_path, n) -> None:
    command = [sys.executable, "scripts/data_acceptance.py", "--n", str(n), "--folder", str(tmp_path)]
    done = subprocess.run([*command, "--steps", "2"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "acceptance.json").read_text())
    assert record["wrong"] == [] and record["files"] == n and len(record["losses"]) == 2
    assert record["found"]["reasons"]["near duplicate"] == round(n * 0.03)
