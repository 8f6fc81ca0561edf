"""AdamW in one byte per moment against torch's in float32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ssd1b.distill import adamw
from ssd1b.distill.adamw import EightBit, Fused, Settings

RATE = 3e-3


def problem(seed: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A net with large and small parameters and something to learn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.LayerNorm(128), nn.Linear(128, 64))
        inputs = torch.randn(256, 64)
        return net, inputs, torch.sin(inputs @ torch.randn(64, 64) / 4)


def train(net: nn.Module, rule: Fused | EightBit, data: tuple[torch.Tensor, torch.Tensor], n: int) -> float:
    loss = torch.tensor(0.0)
    for _ in range(n):
        net.zero_grad()
        loss = (net(data[0]) - data[1]).square().mean()
        loss.backward()
        rule.step(RATE)
    return loss.item()


@pytest.mark.parametrize("seed", range(3))
def test_eight_bits_learn_as_well_as_thirty_two(seed: int) -> None:
    net, *data = problem(seed)
    twin = copy.deepcopy(net)
    start = (net(data[0]) - data[1]).square().mean().item()
    exact = train(net, Fused(dict(net.named_parameters()), Settings()), (data[0], data[1]), 150)
    coarse = train(twin, EightBit(dict(twin.named_parameters()), Settings()), (data[0], data[1]), 150)
    assert exact < 0.2 * start and coarse == pytest.approx(exact, rel=0.1)


def test_small_parameters_move_exactly_as_torchs_do() -> None:
    net, *data = problem(0)
    small = {name: each for name, each in net.named_parameters() if each.numel() < adamw.SMALL}
    twin = copy.deepcopy(net)
    others = {name: each for name, each in twin.named_parameters() if name in small}
    train(net, Fused(small, Settings(weight_decay=0.1)), (data[0], data[1]), 20)
    train(twin, EightBit(others, Settings(weight_decay=0.1)), (data[0], data[1]), 20)
    assert small
    for name, parameter in small.items():
        torch.testing.assert_close(others[name], parameter, rtol=1e-4, atol=1e-6)


def test_the_first_step_of_a_large_parameter_is_torchs() -> None:
    """Nothing was packed before it, so only what is remembered can differ."""
    net, *data = problem(1)
    twin = copy.deepcopy(net)
    train(net, Fused(dict(net.named_parameters()), Settings()), (data[0], data[1]), 1)
    train(twin, EightBit(dict(twin.named_parameters()), Settings()), (data[0], data[1]), 1)
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_moments_of_a_large_parameter_take_two_bytes_a_number() -> None:
    parameter = nn.Parameter(torch.zeros(64, 4096))
    rule = EightBit({"weight": parameter}, Settings())
    taken = sum(each.nbytes for group in rule.moments().values() for each in group.values())
    assert taken == parameter.numel() * (2 + 2 * 4 / 256)


@pytest.mark.parametrize("kind", [Fused, EightBit])
def test_a_rule_goes_on_from_its_moments_bit_by_bit(kind: type[Fused] | type[EightBit]) -> None:
    net, *data = problem(2)
    rule = kind(dict(net.named_parameters()), Settings())
    train(net, rule, (data[0], data[1]), 5)
    twin = copy.deepcopy(net)
    again = kind(dict(twin.named_parameters()), Settings())
    again.prepare(5)
    for group, tensors in rule.moments().items():
        for name, tensor in tensors.items():
            again.moments()[group][name].copy_(tensor)
    for each, its in ((net, rule), (twin, again)):
        train(each, its, (data[0], data[1]), 5)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
