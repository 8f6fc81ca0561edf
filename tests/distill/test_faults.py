"""What goes wrong in 400 GPU-hours, made to happen: each time the same command ends with the same student."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.distill import tiny
from tests.distill.crew import Job, ended, launch, left, same, start, student

from ssd1b.base.errors import LayoutError, RecipeError
from ssd1b.distill import journal, preflight
from ssd1b.distill.recipe import Stage
from ssd1b.distill.stages import carry_out
from ssd1b.distill.student import from_scratch, write_model


def stage(**changes: object) -> Stage:
    base = {"steps": 2, "batch": 2, "ema": 0.9, "checkpoint_every": 1, "keep": 1, "plan": "mini-vega"}
    return tiny.stage(**(base | changes))


def dying(job: Job, point: str) -> Job:
    """The job in an environment that kills it at a point."""
    return replace(job, environment={"SSD1B_CRASH_AT": point})


def steps(job: Job) -> list[str]:
    return sorted(path.name for path in (job.folder / "steps").iterdir())


def events(job: Job, event: str) -> list[dict[str, object]]:
    return [line for line in journal.read(job.folder / "log.jsonl") if line.get("event") == event]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run that nothing happened to."""
    job = Job(tmp_path_factory.mktemp("whole") / "run", (stage(),))
    assert launch(job)[0][0] == 0
    return job


def killed_then_again(whole: Job, folder: Path, point: str) -> bool:
    """Kill a run at a point and start it again; False if it ended before it came to the point."""
    job = replace(whole, folder=folder)
    [(status, output)] = launch(dying(job, point))
    if status == 0:
        return False
    assert status == -signal.SIGKILL, output
    [(status, output)] = launch(job)
    assert status == 0, f"{point}: {output}"
    assert same(student(job), student(whole)), point
    assert same(left(job), left(whole)), point
    assert (job.folder / "student" / "losses.svg").is_file(), point
    assert not [path for path in job.folder.rglob("*") if path.suffix in (".part", ".old")], point
    return True


@pytest.mark.parametrize("point", ["checkpoint: weights written@2", "checkpoint: old one being removed"])
def test_killed_while_saving_the_same_command_ends_with_the_same_student(
    whole: Job, tmp_path: Path, point: str
) -> None:
    assert killed_then_again(whole, tmp_path / "run", point)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_write_point_the_same_command_ends_with_the_same_student(
    whole: Job, tmp_path: Path
) -> None:
    number = 1
    while killed_then_again(whole, tmp_path / f"run-{number}", f"*@{number}"):
        shutil.rmtree(tmp_path / f"run-{number}")
        number += 1
    assert number > 30, "recipe, log lines, three files a checkpoint and its names, the student, the curves"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", ["step@2@1", "checkpoint: average written@1@0"])
def test_one_of_two_processes_killed_and_the_job_launched_again(tmp_path: Path, point: str) -> None:
    """Between steps, and while both write their shares of a checkpoint."""
    calm = Job(tmp_path / "calm", (stage(steps=3, parallel="fsdp2"),))
    hurt = replace(calm, folder=tmp_path / "hurt")
    assert [status for status, _ in launch(calm, world=2)] == [0, 0]
    victim = int(point[-1])
    ends = launch(dying(hurt, point), world=2)
    assert ends[victim][0] == -signal.SIGKILL
    assert ends[1 - victim][0] > 0, "the other one notices and ends"
    assert [status for status, _ in launch(hurt, world=2)] == [0, 0]
    assert same(student(hurt), student(calm)) and same(left(hurt), left(calm))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_to_one_of_two_processes_saves_in_both_at_one_step(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", (stage(steps=400, checkpoint_every=1000),))
    processes = start(job, world=2)
    log = job.folder / "log.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert processes[0][0].is_alive(), processes[0][1].read_text()
        time.sleep(0.05)
    pid = processes[1][0].pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    ends = [ended(*each) for each in processes]
    assert [status for status, _ in ends] == [0, 0]
    last = [re.findall(r"stepped (\d+)", output)[-1] for _, output in ends]
    assert last[0] == last[1] and steps(job) == [f"{int(last[0]):08d}"]


def test_a_flipped_bit_is_named_and_the_checkpoint_before_it_used(whole: Job, tmp_path: Path) -> None:
    job = Job(tmp_path / "run", (stage(steps=3, keep=3),))
    cut = replace(job, stop_at=2)
    [file] = _saved(cut).glob("exp_avg/*.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    straight = replace(job, folder=tmp_path / "straight")
    [(status, output)] = launch(job, straight)
    assert status == 0
    assert f"The checkpoint file {file} is missing or damaged. Going on from an older one." in output
    assert "Going on after step 1." in output
    assert same(student(job), student(straight))


def _saved(job: Job) -> Path:
    assert launch(job)[0][0] == 0
    return job.folder / "steps" / steps(job)[-1]


@pytest.mark.slow
def test_a_damaged_newer_checkpoint_never_outlives_the_sound_one(tmp_path: Path) -> None:
    """With `keep: 1` the damaged newest would otherwise be the one that is kept."""
    cut = Job(tmp_path / "run", (stage(steps=6, keep=3),), stop_at=4)
    (_saved(cut) / "checkpoint.json").write_text("{}")
    (cut.folder / "steps/00000003/checkpoint.json").write_text("{")
    job = Job(cut.folder, (stage(steps=6, keep=1),), stop_at=3)
    [(status, output)] = launch(job)
    assert status == 0 and output.count("has no readable checkpoint.json") == 2
    assert steps(job) == ["00000003"]
    assert launch(replace(job, stop_at=0))[0][0] == 0


def test_a_full_disk_leaves_the_older_checkpoint_and_the_same_command_goes_on(
    whole: Job, tmp_path: Path
) -> None:
    job = replace(whole, folder=tmp_path / "run", stop_at=1)
    assert launch(job)[0][0] == 0
    largest = max(path.stat().st_size for path in (job.folder / "steps").rglob("*"))
    job = replace(job, stop_at=0)
    [(status, output)] = launch(replace(job, largest_file=largest - 1000))
    assert status == 2 and "DiskFullError: The disk is full: " in output and "00000002" in output
    assert steps(job) == ["00000001"], "nothing half-written takes up room"
    [(status, output)] = launch(job)
    assert status == 0 and "Going on after step 1." in output
    assert same(student(job), student(whole))


@pytest.mark.slow
def test_a_full_disk_of_one_process_ends_both(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", (stage(parallel="fsdp2", batch=2),), largest_file=100_000)
    ends = launch(job, world=2)
    assert [status for status, _ in ends] == [2, 2]
    assert all("DiskFullError" in output for _, output in ends) and steps(job) == []


def test_steps_that_are_not_finite_are_skipped_as_often_as_asked(tmp_path: Path) -> None:
    one = stage(steps=5, skip_non_finite=2, checkpoint_every=100)
    job = Job(tmp_path / "run", (one,), poison=(1, 3))
    [(status, output)] = launch(job)
    assert status == 0 and "Step 4 was skipped: loss, task, gradient_norm not finite (2 of 2)." in output
    assert all(torch.isfinite(value).all() for value in student(job).values())
    skipped = events(job, "step skipped")
    assert [event["total"] for event in skipped] == [2, 4]
    assert all(event["values"]["task"] == "nan" and len(event["ids"]) == 2 for event in skipped)  # type: ignore[index,arg-type]
    assert skipped[0]["suspects"] == skipped[0]["ids"]
    facts = json.loads((job.folder / "steps/00000005/checkpoint.json").read_text())
    assert (facts["step"], facts["skipped"]) == (5, 2)
    cut = replace(job, folder=tmp_path / "cut", stop_at=3)
    assert launch(cut, replace(cut, stop_at=0))[0][0] == 0
    assert same(student(cut), student(job)) and same(left(cut), left(job))


@pytest.mark.slow
def test_the_skipping_budget_is_counted_across_a_resume(tmp_path: Path) -> None:
    job = Job(tmp_path / "run", (stage(steps=5, skip_non_finite=1),), poison=(1, 3), stop_at=2)
    assert launch(job)[0][0] == 0
    [(status, output)] = launch(replace(job, stop_at=0))
    assert status == 2
    assert "NonFiniteLossError: Stage 'one', step 4: loss, task, gradient_norm not finite" in output
    assert steps(job) == ["00000003"], "the last sound step is there"
    more = replace(job, stages=(stage(steps=5, skip_non_finite=2),), stop_at=0)
    assert launch(more)[0][0] == 0, "a larger budget is no other recipe"


def test_a_teacher_of_another_layout_is_refused_before_the_first_step_of_any_stage(tmp_path: Path) -> None:
    wide = tiny.teacher_folder(tmp_path / "wide", whole=tiny.even_plan("mini-sdxl"))
    then = tiny.stage(name="two", start="previous", teacher=str(wide))
    run = tiny.run(tmp_path / "run", tiny.stage(steps=1), then)
    with pytest.raises(LayoutError, match=r"Stage 'two': the teacher .* widths \(32, 32, 64\) instead of"):
        carry_out(run)
    assert not (run.folder / "steps").exists() and not (run.folder / "log.jsonl").exists()


def test_a_teacher_whose_answers_alone_count_may_have_other_layers(tmp_path: Path) -> None:
    half = tiny.plan("mini-ssd")
    folder = tmp_path / "half"
    write_model(half.unet_config(), tiny.shaken(from_scratch(half, 1)).state_dict(), None, folder, ["test"])
    shared = {"plan": "mini-vega", "teacher": str(folder), "steps": 1, "batch": 2}
    assert carry_out(tiny.run(tmp_path / "run", tiny.stage(loss={"feature": 0.0}, **shared)))
    with pytest.raises(LayoutError, match=r"(?s)Stage 'one'.*mini-vega"):
        carry_out(tiny.run(tmp_path / "tapped", tiny.stage(**shared)))


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused_at_once() -> None:
    recipe = tiny.run(Path("run"), tiny.stage(batch=3)).recipe
    with pytest.raises(RecipeError, match="a batch of 3 cannot be shared out evenly over 2 processes"):
        preflight.check(recipe, 0, preflight.Look(tiny.plan, lambda name: None), 2)
