"""The distances that teach a student, each under its own name.

Everything here is float32 whatever comes in: half precision overflows on deep features. Parts are
unweighted; weights come from the recipe and the sum is taken in one place, `LossParts.total`.
Does not know models, timesteps or how features are captured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Weights(Protocol):
    """What of a recipe the sum needs."""

    @property
    def task(self) -> float: ...  # noqa: D102
    @property
    def output(self) -> float: ...  # noqa: D102
    @property
    def feature(self) -> float: ...  # noqa: D102
    @property
    def feature_mode(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class LossParts:
    """Loss parts of one batch, unweighted scalars. Without a teacher only `task` is there.

    `feature` holds mean squared distances by student site; `feature_scale` the mean squares of the
    teacher's features, by which the normalised mode divides; `masked` the share of each teacher feature
    that was left out as massive, if that was asked for.
    """

    task: Tensor
    output: Tensor | None = None
    feature: Mapping[str, Tensor] = field(default_factory=dict)
    feature_scale: Mapping[str, Tensor] = field(default_factory=dict)
    masked: Mapping[str, Tensor] = field(default_factory=dict)

    def feature_term(self, mode: str) -> Tensor | None:
        """The one feature number: the sum ('faithful') or the mean of relative distances ('normalised')."""
        if not self.feature:
            return None
        if mode == "normalised":
            return torch.stack([gap / self.feature_scale[site] for site, gap in self.feature.items()]).mean()
        return torch.stack(list(self.feature.values())).sum()

    def total(self, weights: Weights) -> Tensor:
        """Task + output + feature, weighted: the number that is minimised."""
        total = weights.task * self.task
        if self.output is not None:
            total = total + weights.output * self.output
        feature = self.feature_term(weights.feature_mode)
        return total if feature is None else total + weights.feature * feature

    def named(self, mode: str) -> dict[str, Tensor]:
        """Every part under the name it has in the log."""
        names = {"task": self.task}
        if self.output is not None:
            names["output"] = self.output
        feature = self.feature_term(mode)
        if feature is not None:
            names["feature"] = feature
        names |= {f"feature/{site}": gap for site, gap in self.feature.items()}
        if self.masked:
            names["masked"] = torch.stack(list(self.masked.values())).mean()
        return names | {f"masked/{site}": share for site, share in self.masked.items()}


def weighted_mse(left_BCHW: Tensor, right_BCHW: Tensor, weight_B: Tensor) -> Tensor:
    """Mean squared distance, each sample times its weight."""
    gap_B = (left_BCHW.float() - right_BCHW.float()).square().flatten(1).mean(1)
    return (gap_B * weight_B).mean()


def feature_losses(
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    kept: Mapping[str, Tensor] | None = None,
    weight_B: Tensor | None = None,
) -> dict[str, Tensor]:
    """Mean squared distance of every feature pair (BK-SDM, arXiv:2305.15798), by student site.

    Both mappings have one entry per pair, in the same order; any shape, equal within a pair. Values that
    `kept` (see `not_massive`) leaves out count as equal; each sample counts `weight_B` times, or once.
    """
    gaps: dict[str, Tensor] = {}
    for (site, feature), target in zip(student.items(), teacher.values(), strict=True):
        gap = feature.float() - target.float()
        if kept is not None:
            gap = torch.where(kept[site], gap, 0.0)  # before the square: its gradient there is 0, not NaN
        squares = gap.square()
        gaps[site] = squares.mean() if weight_B is None else (squares.flatten(1).mean(1) * weight_B).mean()
    return gaps


def feature_scales(
    names: Mapping[str, Tensor], teacher: Mapping[str, Tensor], kept: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Mean square of each teacher feature, by student site, without what is left out; never zero."""
    tiny = torch.finfo(torch.float32).tiny
    scales: dict[str, Tensor] = {}
    for site, target in zip(names, teacher.values(), strict=True):
        value = target.float() if kept is None else torch.where(kept[site], target.float(), 0.0)
        scales[site] = value.square().mean().clamp(min=tiny)
    return scales


def not_massive(
    names: Mapping[str, Tensor], teacher: Mapping[str, Tensor], times: float
) -> dict[str, Tensor]:
    """Where each teacher feature is at most `times` the median magnitude of its sample, by student site.

    A few values of a transformer are thousands of times larger than the rest and carry no picture (massive
    activations, arXiv:2402.17762); squared they are all that a feature loss sees, so distillation leaves them
    out (TinyFusion, arXiv:2412.01199). A sample whose median is 0 is kept whole.
    """
    kept: dict[str, Tensor] = {}
    for site, target in zip(names, teacher.values(), strict=True):
        size_BN = target.float().abs().flatten(1)
        median_B1 = size_BN.median(1, keepdim=True).values
        kept[site] = ((size_BN <= times * median_B1) | (median_B1 == 0.0)).view(target.shape)
    return kept
