"""Weights that move within the backward pass: the same weights, no gradients left, faults refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tests.distill import tiny
from tests.distill.test_run import UNET, moments, stopped, weights

from ssd1b.base.files import sha256_file
from ssd1b.distill import checkpoint
from ssd1b.distill.losses import LossParts
from ssd1b.distill.ranks import Ranks
from ssd1b.distill.stages import carry_out
from ssd1b.distill.trainer import NonFiniteLossError
from ssd1b.distill.update import AfterBackward, InBackward, updater

WITHIN = {"update": "backward", "clip": 0.0}


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_moving_within_the_backward_pass_moves_the_same(tmp_path: Path, optimizer: str) -> None:
    teacher = str(tiny.teacher_folder(tmp_path / "teacher"))
    shared = {"start": "teacher", "teacher": teacher, "steps": 3, "batch": 2, "optimizer": optimizer}
    after = tiny.run(tmp_path / "after", tiny.stage(clip=0.0, **shared))
    within = tiny.run(tmp_path / "within", tiny.stage(**WITHIN, gradient_checkpointing=True, **shared))
    assert carry_out(after) and carry_out(within)
    one, other = (checkpoint.newest(run.folder / "steps", Ranks())[0] for run in (after, within))
    assert one is not None and other is not None
    found = other.read("weights")
    for name, value in one.read("weights").items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=3e-5)
    for line, twin in zip(moments(after), moments(within), strict=True):
        assert twin["losses"] == pytest.approx(line["losses"], rel=1e-3)
        assert twin["gradient_norm"] == pytest.approx(line["gradient_norm"], rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
@pytest.mark.parametrize("update", ["step", "backward"])
def test_a_stopped_run_goes_on_bit_by_bit(tmp_path: Path, optimizer: str, update: str) -> None:
    stage = tiny.stage(optimizer=optimizer, update=update, clip=0.0, steps=4, batch=2, ema=0.9)
    whole = tiny.run(tmp_path / "whole", stage)
    cut = replace(whole, folder=tmp_path / "cut")
    assert carry_out(whole) and not stopped(cut, 1) and carry_out(cut)
    assert weights(whole.student) == weights(cut.student)


def test_eight_bit_moments_are_in_the_checkpoint_by_name(tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "run", tiny.stage(optimizer="adamw8bit", steps=1, batch=2))
    carry_out(run)
    saved, _ = checkpoint.newest(run.folder / "steps", Ranks())
    assert saved is not None
    assert set(saved.groups) == {"weights", "exp_avg", "exp_avg_sq", "exp_avg_scale", "exp_avg_sq_scale"}
    assert saved.read("exp_avg").keys() == saved.read("weights").keys()
    bytes_of = {name for name, value in saved.read("exp_avg_sq").items() if value.dtype == torch.uint8}
    assert bytes_of and bytes_of == saved.read("exp_avg_sq_scale").keys()


def test_gradients_never_stand_together() -> None:
    net = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(4)))
    parameters = dict(net.named_parameters())
    within = updater(parameters, tiny.stage(**WITHIN), Ranks())
    alive: list[int] = []
    for parameter in parameters.values():
        parameter.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(each.grad is not None for each in parameters.values()))
        )
    within.begin(1e-3)
    net(torch.randn(2, 8)).square().sum().backward()
    assert alive == [0] * len(parameters), "each gradient is gone before the next one comes"
    assert within.norm() > 0 and isinstance(within, InBackward)


def test_a_parameter_without_a_gradient_is_treated_alike() -> None:
    moved = []
    for kind in (tiny.stage(clip=0.0), tiny.stage(**WITHIN)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)])
        each = updater(dict(net.named_parameters()), kind, Ranks())
        each.begin(0.1)
        net[0](torch.ones(1, 3)).sum().backward()
        each.finish(each.norm(), 0.0)
        moved.append(net[1].weight.detach().clone())
        assert each.moments()["exp_avg"].keys() == dict(net.named_parameters()).keys()
    assert torch.equal(*moved)


def test_a_stage_without_wishes_moves_after_the_backward_pass() -> None:
    net = torch.nn.Linear(2, 2)
    assert isinstance(updater(dict(net.named_parameters()), tiny.stage(), Ranks()), AfterBackward)


@pytest.mark.parametrize("wish", [{"clip": 1.0}, {"clip": 0.0, "accumulate": 2}])
def test_what_needs_all_gradients_at_once_is_refused(wish: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"'update: backward' .* or 'update: step'"):
        tiny.stage(update="backward", **wish)


def test_taps_inside_of_compiled_blocks_are_refused() -> None:
    with pytest.raises(ValidationError, match="'compile' hides"):
        tiny.stage(compile=True, loss={"feature_level": "self-attention"})


def test_a_loss_that_is_not_finite_stops_before_any_weight_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny.run(tmp_path / "run", tiny.stage(**WITHIN, steps=3, batch=2))
    moved: list[str] = []
    monkeypatch.setattr(InBackward, "_move", lambda self, name, parameter: moved.append(name))
    bad = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr("ssd1b.distill.trainer.losses", lambda *_: LossParts(task=bad))
    with pytest.raises(NonFiniteLossError, match=r"loss, task not finite.* The weights were not touched"):
        carry_out(run)
    assert not moved


def sha256_tree(folder: Path) -> dict[str, str]:
    return {str(path): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_gradient_that_is_not_finite_ends_the_run_unsaved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny.run(tmp_path / "run", tiny.stage(**WITHIN, steps=3, checkpoint_every=1, batch=2))
    assert not stopped(run, 1)
    before = sha256_tree(run.folder / "steps" / "00000002")

    class Root(torch.autograd.Function):
        """A loss of zero whose slope is infinite."""

        @staticmethod
        def forward(context: object, value: torch.Tensor) -> torch.Tensor:
            return value * 0.0

        @staticmethod
        def backward(context: object, *slope: torch.Tensor) -> torch.Tensor:
            return slope[0] * float("inf")

    from ssd1b.distill import step

    def steep(*given: object) -> LossParts:
        return LossParts(task=Root.apply(step.losses(*given).task))  # type: ignore[arg-type]

    monkeypatch.setattr("ssd1b.distill.trainer.losses", steep)
    with pytest.raises(NonFiniteLossError, match=r"gradient/.* not finite. Some weights had moved"):
        carry_out(run)
    assert sorted(path.name for path in (run.folder / "steps").iterdir()) == ["00000001", "00000002"]
    assert sha256_tree(run.folder / "steps" / "00000002") == before
    assert not (run.student / UNET).exists()
