"""Stopped anywhere and started again, on one process or two, laid out whole or in shares: the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.distill import tiny
from tests.distill.crew import Job, launch, left, same, samples, student

from ssd1b.distill import checkpoint
from ssd1b.distill.ranks import Ranks
from ssd1b.distill.recipe import Stage


def stage(**changes: object) -> Stage:
    base = {"steps": 3, "ema": 0.9, "caption_dropout": 0.3, "checkpoint_every": 100}
    return tiny.stage(**(base | changes))


def carried_out(*jobs: Job, world: int = 1) -> list[str]:
    """Launch jobs that end well; what their processes said."""
    ends = launch(*jobs, world=world)
    assert [status for status, _ in ends] == [0] * world, ends
    return [output for _, output in ends]


@pytest.mark.parametrize(
    ("world", "parallel"),
    [(1, "ddp"), *(pytest.param(2, kind, marks=pytest.mark.slow) for kind in ("ddp", "fsdp2"))],
)
@pytest.mark.timeout(600)
def test_a_run_resumed_after_any_step_ends_with_the_same_bits(
    tmp_path: Path, world: int, parallel: str
) -> None:
    one = stage(parallel=parallel, accumulate=2)
    whole = Job(tmp_path / "whole", (one,))
    cuts = [Job(tmp_path / f"cut-{step}", (one,), stop_at=step) for step in (1, 2)]
    again = [Job(cut.folder, (one,)) for cut in cuts]
    for said in carried_out(whole, *cuts, *again, world=world):
        assert said.count("Stopped and saved") == 2 and said.count("Going on after step") == 2
    for job in again:
        assert same(student(job), student(whole))
        assert same(left(job), left(whole)), "average and AdamW's states too"
    assert any(name.startswith("average/") for name in left(whole))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True, "trainable": ["attn", "conv1"]}])
def test_a_student_in_shares_learns_bit_for_bit_what_a_whole_one_does(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    teacher = tiny.teacher_folder(tmp_path / "teacher", whole=tiny.even_plan("mini-sdxl"))
    one = stage(start="teacher", teacher=str(teacher), steps=2, clip=0.0, **changes)
    whole = Job(tmp_path / "whole", (one,), even=True)
    shares = Job(tmp_path / "shares", (one.model_copy(update={"parallel": "fsdp2"}),), even=True)
    carried_out(whole, shares, world=2)
    assert same(student(whole), student(shares))
    assert same(left(whole), left(shares))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_clipping_and_accumulation_in_shares_differ_by_rounding_only(tmp_path: Path) -> None:
    """Sums are taken in another order, and processors round a tensor's last few numbers in their own way."""
    teacher = tiny.teacher_folder(tmp_path / "teacher")
    one = stage(start="teacher", teacher=str(teacher), clip=1.0, accumulate=2)
    whole = Job(tmp_path / "whole", (one,))
    shares = Job(tmp_path / "shares", (one.model_copy(update={"parallel": "fsdp2"}),))
    carried_out(whole, shares, world=2)
    for name, value in student(whole).items():
        torch.testing.assert_close(student(shares)[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_then_one_then_two_see_the_samples_of_one(tmp_path: Path, parallel: str) -> None:
    one = stage(parallel=parallel, steps=6, accumulate=2)
    alone, moved = Job(tmp_path / "alone", (one,)), Job(tmp_path / "moved", (one,))
    carried_out(alone)
    carried_out(replace(moved, stop_at=2), world=2)
    carried_out(replace(moved, stop_at=4), world=1)
    carried_out(moved, world=2)
    assert samples(moved) == samples(alone)
    assert list(samples(alone)) == list(range(12))
    for name, value in student(alone).items():
        torch.testing.assert_close(student(moved)[name], value, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_two_processes_has_a_share_of_each_and_no_pickle(tmp_path: Path) -> None:
    one = stage(parallel="fsdp2", steps=1)
    job = Job(tmp_path / "run", (one,))
    carried_out(job, world=2)
    files = [path for path in (job.folder / "steps" / "00000001").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    for group in ("weights", "average", "exp_avg", "exp_avg_sq"):
        shares = [path for path in files if path.parent.name == group]
        assert len(shares) == 2
        sizes = [path.stat().st_size for path in shares]
        assert max(sizes) < 1.1 * min(sizes), "each process writes about half"
    saved = checkpoint.opened(job.folder / "steps" / "00000001")
    assert same(saved.read("average"), student(job))
    assert saved == checkpoint.newest(job.folder / "steps", Ranks())[0]
