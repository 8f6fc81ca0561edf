"""What schedulers and layouts say before training, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.distill import tiny

from ssd1b.base.errors import LayoutError, RecipeError
from ssd1b.distill import lesson
from ssd1b.distill.stages import carry_out, snapshot
from ssd1b.models.schedule import Schedule

SDXL = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
}  # fmt: skip


def with_scheduler(folder: Path, **changes: object) -> Path:
    (folder / "scheduler").mkdir(parents=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SDXL | changes))
    return folder


def test_a_folder_without_a_scheduler_speaks_for_sdxl(tmp_path: Path) -> None:
    said = lesson.said_by(tiny.stage(), tmp_path, None)
    assert (said.prediction, said.teacher_prediction) == ("epsilon", "epsilon")
    assert torch.equal(said.schedule.alpha_bar_T, Schedule.sdxl().alpha_bar_T)


def test_the_student_predicts_what_is_stated_or_what_the_scheduler_beside_it_says(tmp_path: Path) -> None:
    noise = with_scheduler(tmp_path / "noise", prediction_type="epsilon")
    velocity = with_scheduler(tmp_path / "velocity", prediction_type="v_prediction")
    for teacher, parts, stated, expected in (
        (velocity, None, None, ("v", "v")),
        (None, velocity, None, ("v", "v")),
        (noise, velocity, None, ("v", "epsilon")),
        (velocity, noise, None, ("epsilon", "v")),
        (velocity, velocity, "epsilon", ("epsilon", "v")),
    ):
        said = lesson.said_by(tiny.stage(prediction=stated), teacher, parts)
        assert (said.prediction, said.teacher_prediction) == expected


def test_two_noise_schedules_in_one_stage_are_refused_with_both_folders(tmp_path: Path) -> None:
    one = with_scheduler(tmp_path / "one")
    other = with_scheduler(tmp_path / "other", beta_end=0.02)
    with pytest.raises(RecipeError, match=r"'one'.*one.*another schedule.*other"):
        lesson.said_by(tiny.stage(), one, other)


def test_noise_is_not_to_be_found_in_pure_noise(tmp_path: Path) -> None:
    folder = with_scheduler(tmp_path / "v", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert lesson.said_by(tiny.stage(), folder, None).schedule.ends_in_noise
    with pytest.raises(RecipeError, match="Set `prediction: v`"):
        lesson.said_by(tiny.stage(prediction="epsilon"), folder, None)


def test_a_teacher_of_another_layout_is_refused_with_both_names() -> None:
    stage = tiny.stage(plan="mini-vega", teacher="somewhere")
    with pytest.raises(LayoutError) as caught:
        lesson.refuse_misfit(stage, tiny.plan("mini-vega"), tiny.plan("mini-ssd").shape)
    said = str(caught.value)
    assert "the teacher 'somewhere' has the layout of 'ssd-1b'" in said
    assert "plan 'mini-vega' is cut from 'sdxl'" in said


def test_a_teacher_of_other_widths_is_refused_and_one_for_other_picture_sizes_is_not() -> None:
    plan, stage = tiny.plan("mini-ssd"), tiny.stage(teacher="somewhere")
    with pytest.raises(LayoutError, match=r"widths \(24, 48, 96\) instead of \(8, 8, 16\)"):
        lesson.refuse_misfit(stage, plan, tiny.catalog.find("mini-sdxl").teacher)
    lesson.refuse_misfit(stage, plan, replace(plan.teacher, sample_size=64))


def test_outputs_alone_can_be_taught_by_any_layout_of_the_same_captions() -> None:
    stage = tiny.stage(teacher="somewhere", loss={"feature": 0.0})
    lesson.refuse_misfit(stage, tiny.plan("mini-ssd"), tiny.plan("mini-vega").shape)
    with pytest.raises(LayoutError, match="somewhere"):
        other = replace(tiny.plan("mini-vega").shape, cross_attention_dim=64)
        lesson.refuse_misfit(stage, tiny.plan("mini-ssd"), other)


def test_a_run_stops_before_training_at_a_teacher_that_does_not_fit(tmp_path: Path) -> None:
    teacher = tiny.teacher_folder(tmp_path / "teacher")
    first = tiny.run(tmp_path / "first", tiny.stage(start="teacher", teacher=str(teacher), steps=1, batch=1))
    carry_out(first)
    stage = tiny.stage(plan="mini-vega", teacher=str(first.student), steps=1, batch=1)
    with pytest.raises(LayoutError, match=r"student' has the layout of 'ssd-1b', and plan 'mini-vega'"):
        carry_out(tiny.run(tmp_path / "second", stage))


@pytest.mark.parametrize(("lender", "stated", "written"), [
    ("epsilon", None, "epsilon"), ("epsilon", "v", "v_prediction"), ("v_prediction", None, "v_prediction"),
])  # fmt: skip
def test_the_scheduler_beside_the_student_says_what_it_predicts(
    tmp_path: Path, lender: str, stated: str | None, written: str
) -> None:
    teacher = with_scheduler(tiny.teacher_folder(tmp_path / "teacher"), prediction_type=lender)
    stage = tiny.stage(start="teacher", teacher=str(teacher), steps=1, batch=1, prediction=stated)
    run = tiny.run(tmp_path / "run", stage)
    carry_out(run)
    snapshot(run, tmp_path / "snapshot")
    for folder in (run.student, tmp_path / "snapshot"):
        config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        assert config == SDXL | {"prediction_type": written}
