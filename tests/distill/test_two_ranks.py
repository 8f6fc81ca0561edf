"""Two processes train the student that one process trains; a stop is agreed on and survived."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.distill import tiny

from ssd1b.distill.stages import carry_out

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from dataclasses import replace
from pathlib import Path
from ssd1b.distill.journal import Silent
from ssd1b.distill.ranks import ranks
from ssd1b.distill.stages import carry_out
from ssd1b.distill.trainer import Stopping
from tests.distill import tiny

class StopAfter(Silent):
    def stepped(self, stage, step):
        if step == stop_after:
            stopping.ask()

stop_after, stopping = int(sys.argv[2]), Stopping()
run = tiny.run(Path(sys.argv[1]), tiny.stage(steps=4, ema=0.9, caption_dropout=0.5))
with ranks(run.device) as processes:
    asked = StopAfter() if processes.rank == 1 else Silent()  # one rank is asked, both stop
    carry_out(replace(run, ranks=processes, stopping=stopping, watcher=asked))
"""


def two_ranks(tmp_path: Path, folder: Path, stop_after: int) -> None:
    script = tmp_path / "worker.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{WORKER}")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, str(script), str(folder), str(stop_after)], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_train_the_student_of_one_and_resume_bit_identically(tmp_path: Path) -> None:
    one = tiny.run(tmp_path / "one", tiny.stage(steps=4, ema=0.9, caption_dropout=0.5))
    carry_out(one)
    two_ranks(tmp_path, tmp_path / "two", stop_after=-1)
    two_ranks(tmp_path, tmp_path / "cut", stop_after=1)
    assert [p.name for p in (tmp_path / "cut" / "steps").iterdir()] == ["00000002"]
    assert not (tmp_path / "cut" / "student").exists()
    two_ranks(tmp_path, tmp_path / "cut", stop_after=-1)
    alone, both, cut = (
        load_file(tmp_path / run / "student/unet/diffusion_pytorch_model.safetensors")
        for run in ("one", "two", "cut")
    )
    assert all(torch.equal(both[name], cut[name]) for name in both)
    for name in both:
        torch.testing.assert_close(both[name], alone[name], rtol=1e-3, atol=1e-5)
