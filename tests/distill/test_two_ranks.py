"""The launcher itself: what torchrun makes of a killed process and of SIGTERM; relaunching is enough."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.distill import tiny
from tests.distill.crew import Job, launch, left, same, student

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from pathlib import Path
from ssd1b.distill.ranks import ranks
from ssd1b.distill.trainer import stopping_on_signals
from tests.distill import crew, tiny

job = crew.Job(Path(sys.argv[1]), (tiny.stage(steps=60, ema=0.9, checkpoint_every=5),))
with ranks(crew.torch.device("cpu")) as processes, stopping_on_signals() as stopping:
    crew.carry(job, processes, stopping)
    print("left with 0", flush=True)
"""


def torchrun(tmp_path: Path, folder: Path, crash_at: str = "") -> subprocess.Popen[str]:
    script = tmp_path / "worker.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{WORKER}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"SSD1B_CRASH_AT": crash_at} if crash_at else {})
    return subprocess.Popen(
        [*command, str(script), str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_killed_stopped_and_relaunched_ends_with_the_same_bits(tmp_path: Path) -> None:
    straight = Job(tmp_path / "straight", (tiny.stage(steps=60, ema=0.9, checkpoint_every=5),))
    alone = Job(tmp_path / "alone", straight.stages)
    assert [status for status, _ in launch(straight, world=2)] == [0, 0]
    assert launch(alone)[0][0] == 0
    hurt = Job(tmp_path / "hurt", straight.stages)

    with torchrun(tmp_path, hurt.folder, crash_at="step@8@1") as killed:
        said = killed.communicate(timeout=200)[0]
    assert killed.returncode == 1 and "left with 0" not in said, said

    with torchrun(tmp_path, hurt.folder) as stopped:
        log = hurt.folder / "log.jsonl"
        while '"resumed"' not in log.read_text() or '"total": 8' not in log.read_text():
            assert stopped.poll() is None
            time.sleep(0.05)
        stopped.send_signal(signal.SIGTERM)  # torchrun hands it on to both
        said = stopped.communicate(timeout=200)[0]
    assert stopped.returncode == 1, "torchrun's own status, whatever its workers'"
    assert said.count("left with 0") == 2 and said.count("Stopped and saved") == 2, said
    assert not (hurt.folder / "student").exists()

    with torchrun(tmp_path, hurt.folder) as finished:
        said = finished.communicate(timeout=200)[0]
    assert finished.returncode == 0, said
    assert same(student(hurt), student(straight)) and same(left(hurt), left(straight))
    for name, value in student(alone).items():
        torch.testing.assert_close(student(hurt)[name], value, rtol=1e-2, atol=1e-3)
