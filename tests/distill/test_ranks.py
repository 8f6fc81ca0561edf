"""One process among several, and one alone."""

from __future__ import annotations

import pytest
import torch

from ssd1b.distill.ranks import Ranks, own_device, ranks


def test_a_process_alone_leads_and_averages_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ranks(torch.device("cpu")) as alone:
        assert alone == Ranks(0, 1) and alone.leads
        values = torch.tensor([1.0, 2.0])
        alone.average_(values)
        alone.wait()
    assert values.tolist() == [1.0, 2.0]


def test_a_process_takes_its_own_gpu_only_where_gpus_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert own_device(torch.device("cpu")) == torch.device("cpu")
    assert own_device(torch.device("cuda:0")) == torch.device("cuda:0")
    assert own_device(torch.device("cuda")) == torch.device("cuda", 1) == taken[0]
