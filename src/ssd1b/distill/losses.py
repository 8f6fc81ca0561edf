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

    `feature` holds plain mean squared distances by student site; `feature_scale` the mean squares of
    the teacher's features, by which the normalised mode divides.
    """

    task: Tensor
    output: Tensor | None = None
    feature: Mapping[str, Tensor] = field(default_factory=dict)
    feature_scale: Mapping[str, Tensor] = field(default_factory=dict)

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
        return names | {f"feature/{site}": gap for site, gap in self.feature.items()}


def weighted_mse(left_BCHW: Tensor, right_BCHW: Tensor, weight_B: Tensor) -> Tensor:
    """Mean squared distance, each sample times its weight."""
    gap_B = (left_BCHW.float() - right_BCHW.float()).square().flatten(1).mean(1)
    return (gap_B * weight_B).mean()


def feature_losses(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean squared distance of every feature pair (BK-SDM, arXiv:2305.15798), by student site.

    Both mappings have one entry per pair, in the same order; any shape, equal within a pair.
    """
    return {
        site: (feature.float() - target.float()).square().mean()
        for (site, feature), target in zip(student.items(), teacher.values(), strict=True)
    }


def feature_scales(names: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean square of each teacher feature, by student site; never zero."""
    tiny = torch.finfo(torch.float32).tiny
    return {
        site: target.float().square().mean().clamp(min=tiny)
        for site, target in zip(names, teacher.values(), strict=True)
    }
