"""Which device is chosen, and how a wrong wish is answered."""

from __future__ import annotations

import pytest
import torch

from ssd1b.base.errors import RequestError
from ssd1b.models.device import choose


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    """Make torch see so many graphics cards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cards", "device", "dtype"),
    [
        ({}, "cpu", torch.float32),
        ({"cuda": 1}, "cuda", torch.float16),
        ({"mps": True}, "mps", torch.float16),
        ({"cuda": 1, "mps": True}, "cuda", torch.float16),
    ],
)
def test_the_machine_decides_where_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, cards: dict[str, int], device: str, dtype: torch.dtype
) -> None:
    pretend(monkeypatch, **cards)
    for chosen in (choose(), choose("auto", "auto")):
        assert (chosen.device.type, chosen.dtype) == (device, dtype)
        assert chosen.reason.startswith(device)


@pytest.mark.parametrize("name", ["float32", "fp32", "bfloat16", "BF16", "float16"])
def test_a_dtype_that_is_asked_for_is_taken(name: str) -> None:
    chosen = choose("cpu", name)
    assert str(chosen.dtype).removeprefix("torch.")[0] == name.lower()[0]
    assert chosen.reason.count("asked for") == 2


def test_a_card_by_its_number_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2)
    assert choose("cuda:1").device == torch.device("cuda:1")


@pytest.mark.parametrize(
    ("device", "dtype", "said"),
    [
        ("cuda", None, "cannot use it"),
        ("gpu", None, "No device is called 'gpu'"),
        ("cdua", None, "Did you mean 'cuda'"),
        ("cpu:x", None, "does not end in a number"),
        ("cpu", "float61", "Did you mean 'float16'"),
        ("cpu", "int8", "No number format is called 'int8'"),
    ],
)
def test_a_wrong_wish_is_answered_with_what_there_is(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: str | None, said: str
) -> None:
    pretend(monkeypatch)
    with pytest.raises(RequestError, match=said):
        choose(device, dtype)


def test_a_card_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=1)
    with pytest.raises(RequestError, match="this machine has 1"):
        choose("cuda:1")
