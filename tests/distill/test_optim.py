"""Flat gradients, the learning rate's course, averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssd1b.distill import optim


def test_gradients_land_in_one_tensor_and_have_the_norm_torch_says() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    flat = optim.FlatGradients(list(model.parameters()))
    model(torch.ones(5, 3)).square().sum().backward()
    expected = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    torch.testing.assert_close(flat.norm(), expected)
    half = 0.5 * float(flat.norm())
    flat.clip(float(flat.norm()), half)
    torch.testing.assert_close(
        torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]), torch.tensor(half)
    )
    flat.zero()
    assert all(not p.grad.any() for p in model.parameters())


def test_a_clip_of_zero_clips_nothing() -> None:
    layer = nn.Linear(2, 2)
    flat = optim.FlatGradients(list(layer.parameters()))
    flat.flat.fill_(100.0)
    flat.clip(float(flat.norm()), 0.0)
    assert (flat.flat == 100.0).all()


def test_the_learning_rate_rises_then_falls_to_its_end() -> None:
    shares = [
        optim.learning_rate_share(s, steps=100, schedule="cosine", warmup=10, final=0.1) for s in range(100)
    ]
    assert shares[0] == pytest.approx(0.1) and shares[9] == shares[10] == 1.0
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert 0.1 <= shares[-1] < 0.102


def test_a_constant_learning_rate_stays() -> None:
    assert {
        optim.learning_rate_share(s, steps=9, schedule="constant", warmup=0, final=0.0) for s in range(9)
    } == {1.0}


def test_only_the_named_layers_are_trained() -> None:
    model = nn.ModuleDict({"attn1": nn.Linear(2, 2), "attn2": nn.Linear(2, 2)})
    assert set(optim.trainable(model, ["attn2"])) == {"attn2.weight", "attn2.bias"}
    assert not model["attn1"].weight.requires_grad
    assert len(optim.trainable(model, [])) == 4


def test_the_average_follows_the_weights() -> None:
    parameters = dict(nn.Linear(1, 1).named_parameters())
    average = optim.Average(parameters, decay=0.9)
    start = average.weights["weight"].clone()
    with torch.no_grad():
        parameters["weight"] += 1.0
    average.update(parameters, step=10_000)
    torch.testing.assert_close(average.weights["weight"], start + 0.1)
