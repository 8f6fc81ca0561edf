"""Taps: what they catch, and that they leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from tests.distill import tiny
from torch import nn

from ssd1b.base.errors import PlanError
from ssd1b.distill.step import predict_noise
from ssd1b.distill.student import from_scratch
from ssd1b.distill.taps import tapped


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_a_plan_of_ssd_1b_taps_26_places_of_both_models() -> None:
    plan = tiny.plan("mini-ssd")
    student, teacher = from_scratch(plan, 0), from_scratch(tiny.plan("mini-sdxl"), 1)
    batch, pairs = tiny.TinyBatches().batch_at(0), plan.tap_pairs()
    with tapped(student, [p.student_site for p in pairs]) as ours:
        predict_noise(student, batch.latent_BCHW, torch.tensor([5] * 4), batch)
    with tapped(teacher, [p.teacher_site for p in pairs]) as theirs:
        predict_noise(teacher, batch.latent_BCHW, torch.tensor([5] * 4), batch)
    assert len(ours) == len(theirs) == 26
    assert [f.shape for f in ours.values()] == [f.shape for f in theirs.values()]


def test_taps_are_gone_after_the_with_even_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ZeroDivisionError), tapped(model, ["0", "1"]):
        assert hooks(model) == 2
        raise ZeroDivisionError
    assert hooks(model) == 0


def test_a_site_that_is_not_there_is_named_and_no_tap_stays() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(PlanError, match="'mid_block'"), tapped(model, ["0", "mid_block"]):
        pass
    assert hooks(model) == 0


def test_the_first_of_several_outputs_is_the_feature() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x + 1, x + 2

    model = nn.Sequential(Pair())
    with tapped(model, ["0"]) as features:
        model(torch.zeros(1))
    assert features["0"].item() == 1
