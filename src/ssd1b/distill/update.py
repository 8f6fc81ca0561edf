"""When the weights move: once after the backward pass, or parameter by parameter within it.

Within it, each gradient is gone as soon as it was used, so that all gradients together never take memory
(LOMO, arXiv:2306.09782). Knows gradients, the processes they are averaged over, and what a stage
says about its optimizer. Does not know losses or files.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Protocol

import torch
from torch import nn

from ssd1b.distill.adamw import RULES, Moments, Parameters, Rule, Settings
from ssd1b.distill.optim import FlatGradients
from ssd1b.distill.ranks import Ranks
from ssd1b.distill.recipe import Stage
from ssd1b.distill.shards import ShardedGradients

MakeRule = Callable[[Parameters], Rule]
Gradients = FlatGradients | ShardedGradients


class GradientError(ArithmeticError):
    """A gradient within the backward pass is not finite. `name` is its parameter's."""

    def __init__(self, name: str) -> None:
        """Name the parameter; those whose gradients came before it have moved."""
        super().__init__(f"the gradient of {name} is not finite")
        self.name = name


class Updater(Protocol):
    """What the trainer asks for, in this order: begin, (its backward passes,) norm, finish."""

    early: bool
    """Whether weights move before `finish`, so that a loss has to be checked before its backward pass."""
    rate: float
    """The learning rate of the step."""

    def begin(self, rate: float) -> None:
        """Start a step at a learning rate."""
        ...

    def norm(self) -> float:
        """Euclidean norm of all gradients, averaged over the processes."""
        ...

    def finish(self, norm: float, clip: float) -> None:
        """Move what has not moved, gradients scaled down to `clip` first (0: not)."""
        ...

    def moments(self) -> Moments:
        """The optimizer's memory by group and parameter name: to be saved, or filled from a checkpoint."""
        ...

    def prepare(self, steps: int) -> None:
        """Be as after `steps` steps, but for the moments: a checkpoint's are to be copied into them."""
        ...


class AfterBackward:
    """All gradients in one tensor, then one step of the optimizer."""

    early = False

    def __init__(self, parameters: Parameters, rule: MakeRule, ranks: Ranks, gradients: Gradients) -> None:
        """Make room for all gradients, or for this process's share of them."""
        self.gradients = gradients
        self.rule, self.ranks, self.rate = rule(parameters), ranks, 0.0

    def begin(self, rate: float) -> None:
        """Forget the last step's gradients."""
        self.rate = rate
        self.gradients.zero()

    def norm(self) -> float:
        """Average the gradients over the processes, which shares are already; their norm."""
        if isinstance(self.gradients, FlatGradients):
            self.ranks.average_(self.gradients.flat)
        return float(self.gradients.norm())

    def finish(self, norm: float, clip: float) -> None:
        """Clip and move everything."""
        self.gradients.clip(norm, clip)
        self.rule.step(self.rate)

    def moments(self) -> Moments:
        """The rule's."""
        return self.rule.moments()

    def prepare(self, steps: int) -> None:
        """The rule's."""
        self.rule.prepare(steps)


class InBackward:
    """Each parameter moves when its gradient is complete, and the gradient is freed.

    One batch per step and no clipping: both would need all gradients at once.
    """

    early = True

    def __init__(self, parameters: Parameters, rule: MakeRule, ranks: Ranks) -> None:
        """Listen to the parameters' gradients."""
        self.parameters, self.ranks, self.rate = parameters, ranks, 0.0
        self.rules = {name: rule({name: parameter}) for name, parameter in parameters.items()}
        self.squares: dict[str, float] = {}
        for name, parameter in parameters.items():
            parameter.register_post_accumulate_grad_hook(self._listener(name))

    def _listener(self, name: str) -> Callable[[nn.Parameter], None]:
        return lambda parameter: self._move(name, parameter)

    @torch.no_grad()
    def _move(self, name: str, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None, "the hook runs when the gradient is there"
        assert name not in self.squares, f"{name} moved already: a step is one backward pass here"
        self.ranks.average_(parameter.grad)
        square = float(torch.linalg.vector_norm(parameter.grad)) ** 2
        if not isfinite(square):
            raise GradientError(name)
        self.squares[name] = square
        self.rules[name].step(self.rate)
        parameter.grad = None

    def begin(self, rate: float) -> None:
        """Set the learning rate for the coming backward pass."""
        self.rate = rate
        self.squares.clear()

    def norm(self) -> float:
        """Norm of the gradients that came by."""
        return float(sum(self.squares.values()) ** 0.5)

    def finish(self, norm: float, clip: float) -> None:
        """Move what had no gradient as if it were zero, as an optimizer after the backward pass does."""
        assert clip == 0.0, "the recipe lets no clipping through"
        for name in self.parameters.keys() - self.squares.keys():
            self.parameters[name].grad = torch.zeros_like(self.parameters[name])
            self.rules[name].step(self.rate)
            self.parameters[name].grad = None

    def moments(self) -> Moments:
        """Those of every parameter's own rule, put together."""
        together: Moments = {}
        for rule in self.rules.values():
            for group, tensors in rule.moments().items():
                together.setdefault(group, {}).update(tensors)
        return together

    def prepare(self, steps: int) -> None:
        """Each rule's."""
        for rule in self.rules.values():
            rule.prepare(steps)


def updater(parameters: Parameters, stage: Stage, ranks: Ranks, *, sharded: bool = False) -> Updater:
    """The updater that a stage asks for; `sharded`: the parameters lie in shares over the processes."""
    rule = partial(RULES[stage.optimizer], settings=Settings(stage.betas, stage.weight_decay))
    if stage.update == "backward":
        return InBackward(parameters, rule, ranks)
    own = list(parameters.values())
    gradients = ShardedGradients(own, ranks) if sharded else FlatGradients(own)
    return AfterBackward(parameters, rule, ranks, gradients)
