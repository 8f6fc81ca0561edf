"""Loss parts and their sum, judged by the formula written out."""

from __future__ import annotations

import pytest
import torch

from ssd1b.distill.losses import LossParts, feature_losses, feature_scales, weighted_mse
from ssd1b.distill.recipe import LossWeights


def test_the_faithful_loss_is_the_published_sum() -> None:
    parts = LossParts(
        task=torch.tensor(2.0),
        output=torch.tensor(3.0),
        feature={"a": torch.tensor(5.0), "b": torch.tensor(7.0)},
        feature_scale={"a": torch.tensor(10.0), "b": torch.tensor(70.0)},
    )
    assert parts.total(LossWeights()).item() == 2 + 0.5 * 3 + 0.5 * (5 + 7)
    normalised = LossWeights(feature_mode="normalised")
    assert parts.total(normalised).item() == pytest.approx(2 + 0.5 * 3 + 0.5 * (0.5 + 0.1) / 2)


def test_without_a_teacher_only_the_task_counts() -> None:
    parts = LossParts(task=torch.tensor(2.0))
    assert parts.total(LossWeights(task=3.0)).item() == 6.0
    assert set(parts.named("faithful")) == {"task"}


def test_every_part_keeps_its_name_to_the_log() -> None:
    one = torch.tensor(1.0)
    named = LossParts(one, one, {"mid_block": one}, {"mid_block": one}).named("faithful")
    assert set(named) == {"task", "output", "feature", "feature/mid_block"}


def test_a_weight_of_one_gives_the_plain_mean_squared_error() -> None:
    left, right = torch.randn(2, 3, 4, 5, 6).unbind()
    ours = weighted_mse(left, right, torch.ones(3))
    torch.testing.assert_close(ours, torch.nn.functional.mse_loss(left, right))


def test_losses_of_half_precision_features_do_not_overflow() -> None:
    student = {"a": torch.full((1, 4, 2, 2), 60000.0, dtype=torch.float16)}
    teacher = {"t": torch.zeros(1, 4, 2, 2, dtype=torch.float16)}
    gap = feature_losses(student, teacher)["a"]
    assert gap.dtype == torch.float32 and gap.item() == pytest.approx(3.6e9, rel=1e-3)


def test_a_silent_teacher_feature_does_not_divide_by_zero() -> None:
    student, teacher = {"a": torch.zeros(1, 2)}, {"t": torch.zeros(1, 2)}
    scale = feature_scales(student, teacher)
    parts = LossParts(torch.tensor(0.0), None, feature_losses(student, teacher), scale)
    assert parts.total(LossWeights(feature_mode="normalised")).item() == 0.0
