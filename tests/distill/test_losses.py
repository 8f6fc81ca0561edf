"""Loss parts and their sum, judged by the formula written out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssd1b.distill.losses import LossParts, feature_losses, feature_scales, not_massive, weighted_mse
from ssd1b.distill.recipe import LossWeights

Pair = tuple[dict[str, Tensor], dict[str, Tensor]]


@st.composite
def pairs(draw: st.DrawFn, n_samples: int | None = None) -> Pair:
    """Features of two sites, as a student and as a teacher have them: maps and token sequences."""
    batch = n_samples or draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    sizes = ((batch, 3, 4, 5), (batch, 6, 2))
    teacher = {f"t{i}": torch.randn(size, generator=generator) for i, size in enumerate(sizes)}
    student = {f"s{i}": torch.randn(size, generator=generator) for i, size in enumerate(sizes)}
    return student, teacher


def stacked(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


tiny = settings(deadline=None, max_examples=25)


@tiny
@given(pairs(), st.floats(1.0, 20.0), st.sampled_from(["faithful", "normalised"]))
def test_equal_features_are_no_distance_apart_in_any_mode(pair: Pair, times: float, mode: str) -> None:
    student, teacher = pair
    same = dict(zip(student, teacher.values(), strict=True))
    kept = not_massive(same, teacher, times)
    weight_B = torch.rand(len(same["s0"]))
    parts = LossParts(
        torch.tensor(0.0),
        feature=feature_losses(same, teacher, kept, weight_B),
        feature_scale=feature_scales(same, teacher, kept),
    )
    assert parts.feature_term(mode).item() == 0.0


@tiny
@given(pairs(), st.floats(0.1, 100.0))
def test_scaling_both_models_scales_the_plain_loss_by_the_square_and_the_normalised_not_at_all(
    pair: Pair, factor: float
) -> None:
    def terms(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        gaps, scales = feature_losses(student, teacher), feature_scales(student, teacher)
        parts = LossParts(torch.tensor(0.0), None, gaps, scales)
        return parts.feature_term("faithful"), parts.feature_term("normalised")

    plain, relative = terms(*pair)
    larger = tuple({name: factor * value for name, value in one.items()} for one in pair)
    scaled_plain, scaled_relative = terms(*larger)
    torch.testing.assert_close(scaled_plain, factor**2 * plain, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(scaled_relative, relative, rtol=1e-4, atol=0.0)


@tiny
@given(pairs(), st.floats(1.0, 10.0))
def test_masking_takes_away_and_never_adds(pair: Pair, times: float) -> None:
    student, teacher = pair
    kept = not_massive(student, teacher, times)
    plain, masked = feature_losses(*pair), feature_losses(*pair, kept)
    wider = feature_losses(*pair, not_massive(student, teacher, 2 * times))
    for site in student:
        assert masked[site] <= wider[site] * (1 + 1e-6) <= plain[site] * (1 + 2e-6)
    untouched = feature_losses(*pair, not_massive(student, teacher, 1e6))
    assert all(torch.equal(untouched[site], plain[site]) for site in plain)


@tiny
@given(pairs(n_samples=3), st.lists(st.floats(0.0, 5.0), min_size=6, max_size=6))
def test_sample_weights_are_additive_and_a_weight_of_one_is_the_plain_mean(
    pair: Pair, weights: list[float]
) -> None:
    left_B, right_B = torch.tensor(weights).view(2, 3).unbind()
    by_left, by_right, by_both, by_one = (
        feature_losses(*pair, None, weight_B)
        for weight_B in (left_B, right_B, left_B + right_B, torch.ones(3))
    )
    for site, plain in feature_losses(*pair).items():
        torch.testing.assert_close(by_both[site], by_left[site] + by_right[site], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(by_one[site], plain)


@tiny
@given(st.lists(pairs(n_samples=2), min_size=2, max_size=4), st.sampled_from([0.0, 3.0]))
def test_the_mean_over_k_batches_is_the_loss_of_one_batch_k_times_the_size(
    batches: list[Pair], times: float
) -> None:
    def loss(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        kept = not_massive(student, teacher, times) if times else None
        return LossParts(torch.tensor(0.0), feature=feature_losses(student, teacher, kept)).total(
            LossWeights()
        )

    apart = torch.stack([loss(*batch) for batch in batches]).mean()
    students, teachers = zip(*batches, strict=True)
    torch.testing.assert_close(loss(stacked(students), stacked(teachers)), apart, rtol=1e-4, atol=1e-6)


def test_one_massive_value_is_left_out_named_in_the_share_and_moves_no_weight() -> None:
    teacher = {"t": torch.ones(2, 4, 5)}
    teacher["t"][1, 2, 3] = 5000.0
    student = {"s": torch.zeros(2, 4, 5, requires_grad=True)}
    kept = not_massive(student, teacher, 1000.0)
    assert int((~kept["s"]).sum()) == 1 and not kept["s"][1, 2, 3]
    loss = feature_losses(student, teacher, kept)["s"]
    loss.backward()
    assert loss.item() == pytest.approx(39 / 40)
    assert student["s"].grad[1, 2, 3] == 0.0 and (student["s"].grad != 0).sum() == 39
    assert feature_scales(student, teacher, kept)["s"].item() == pytest.approx(39 / 40)
    named = LossParts(loss, None, {"s": loss}, {"s": loss}, {"s": (~kept["s"]).float().mean()}).named(
        "faithful"
    )
    assert named["masked"].item() == named["masked/s"].item() == pytest.approx(1 / 40)


def test_an_overflown_value_of_a_half_precision_teacher_is_left_out_without_a_trace() -> None:
    teacher = {"t": torch.ones(1, 3, 3, dtype=torch.float16)}
    teacher["t"][0, 1, 1] = torch.inf
    student = {"s": torch.zeros(1, 3, 3, requires_grad=True)}
    loss = feature_losses(student, teacher, not_massive(student, teacher, 100.0))["s"]
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student["s"].grad).all()


def test_a_feature_that_is_mostly_zero_is_kept_whole() -> None:
    teacher = {"t": torch.zeros(1, 9)}
    teacher["t"][0, 0] = 1.0
    assert not_massive({"s": teacher["t"]}, teacher, 10.0)["s"].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_lose_no_digits_in_the_loss(dtype: torch.dtype) -> None:
    """300 and 301 differ in bfloat16 by 2 or 0; the sum of a million squares overflows float16."""
    generator = torch.Generator().manual_seed(0)
    student = {"s": (300 + 40 * torch.randn(1, 64, 128, 128, generator=generator)).to(dtype)}
    teacher = {"t": (300 + 40 * torch.randn(1, 64, 128, 128, generator=generator)).to(dtype)}
    exact = (student["s"].double() - teacher["t"].double()).square().mean()
    for weight_B in (None, torch.ones(1)):
        ours = feature_losses(student, teacher, not_massive(student, teacher, 100.0), weight_B)["s"]
        assert ours.dtype == torch.float32 and ours.item() == pytest.approx(exact.item(), rel=1e-5)
    scale = feature_scales(student, teacher)["s"]
    assert scale.item() == pytest.approx(teacher["t"].double().square().mean().item(), rel=1e-5)
    ours = weighted_mse(student["s"], teacher["t"], torch.ones(1))
    assert ours.item() == pytest.approx(exact.item(), rel=1e-5)


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
