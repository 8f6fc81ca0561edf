"""Previews: drawn when due, by every process its share, and nothing of them is left in the weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from tests.distill import tiny
from tests.distill.crew import Job, launch, same, student
from torch import nn

from ssd1b.distill.previews import at_rest
from ssd1b.distill.stages import carry_out
from ssd1b.distill.step import Objective

UNET = "unet/diffusion_pytorch_model.safetensors"


@dataclass
class Meddling:
    """Calls both UNets as a drawer does, and draws from torch's own random numbers."""

    seen: list[tuple[int, bool, bool]] = field(default_factory=list)

    def draw(self, student: nn.Module, objective: Objective, total: int) -> None:
        assert objective.teacher is not None
        modes = [module.training for unet in (student, objective.teacher) for module in unet.modules()]
        self.seen.append((total, any(modes), torch.is_grad_enabled()))
        torch.rand(7)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.teacher_folder(tmp_path_factory.mktemp("models") / "teacher")


def test_previews_are_drawn_when_due_at_rest_and_change_no_bit(teacher: Path, tmp_path: Path) -> None:
    keys = {"start": "teacher", "teacher": str(teacher), "ema": 0.9, "gradient_checkpointing": True}
    plain = tiny.run(tmp_path / "plain", tiny.stage(**keys))
    seen = Meddling()
    first, second = (tiny.stage(name=name, preview_every=2, **keys) for name in ("one", "two"))
    drawn = replace(tiny.run(tmp_path / "drawn", first), previews=seen)
    assert carry_out(plain) and carry_out(drawn)
    assert seen.seen == [(2, False, False), (4, False, False)]
    assert (plain.student / UNET).read_bytes() == (drawn.student / UNET).read_bytes()
    assert carry_out(replace(tiny.run(tmp_path / "two", first, second), previews=seen))
    assert [total for total, *_ in seen.seen[2:]] == [2, 4, 6, 8]


def test_a_run_may_ask_for_other_previews_when_it_goes_on(teacher: Path, tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "run", tiny.stage(start="teacher", teacher=str(teacher)))
    assert carry_out(run)
    again = tiny.run(
        run.folder,
        tiny.stage(start="teacher", teacher=str(teacher), preview_every=1),
        preview_prompts=["a cat"],
    )
    assert carry_out(again), "it is done, not another run"


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_processes_draw_together_and_learn_the_same(teacher: Path, tmp_path: Path, parallel: str) -> None:
    keys = {"start": "teacher", "teacher": str(teacher), "steps": 3, "parallel": parallel}
    plain = Job(tmp_path / "plain", (tiny.stage(**keys),))
    drawn = Job(tmp_path / "drawn", (tiny.stage(preview_every=1, **keys),), drawn=True)
    ends = launch(plain, drawn, world=2)
    assert [status for status, _ in ends] == [0, 0], ends
    assert all(said.count("drawn after") == 3 for _, said in ends)
    assert same(student(plain), student(drawn))


def test_every_module_gets_its_own_mode_back_even_after_a_failure() -> None:
    unet = nn.Sequential(nn.Linear(1, 1), nn.Dropout()).train()
    unet[1].eval()
    with pytest.raises(ValueError, match="meanwhile"), at_rest(unet):
        assert not unet[0].training and not torch.is_grad_enabled()
        raise ValueError("meanwhile")
    assert (unet.training, unet[0].training, unet[1].training) == (True, True, False)
    assert torch.is_grad_enabled()


def test_previews_without_anything_to_draw_with_are_refused() -> None:
    with pytest.raises(ValueError, match="'preview_every' needs 'parts'"):
        tiny.run(Path("run"), tiny.stage(preview_every=1))
