"""What a stage is said to take, held against what it takes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from tests.distill import tiny
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ssd1b.distill import forecast
from ssd1b.distill.adamw import EightBit, Settings
from ssd1b.distill.forecast import Place, foresee
from ssd1b.distill.rehearsal import blank_batch, random_unet, rehearse
from ssd1b.distill.step import Objective, losses
from ssd1b.models.schedule import Schedule
from ssd1b.plan import catalog

# What the process really takes above weights and gradients, by the kernel's own count of resident memory.
MEASURED = """
import json, sys, torch
from pathlib import Path
from tests.distill import tiny
from ssd1b.distill.rehearsal import blank_batch, random_unet
from ssd1b.distill.step import Objective, losses, precision
from ssd1b.models.schedule import Schedule
from ssd1b.plan import catalog

def status(key):
    return 1024 * int(Path("/proc/self/status").read_text().partition(key + ":")[2].split()[0])

side, rows, keys = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(1)
plan, stage = catalog.find("mini-ssd"), tiny.stage(start="teacher", teacher="t", **keys)
half = stage.precision == "bf16"
student = random_unet(plan.shape, torch.float32).train()
if stage.gradient_checkpointing:
    student.enable_gradient_checkpointing()
for each in student.parameters():
    each.grad = torch.ones_like(each)
teacher = random_unet(plan.teacher, torch.bfloat16 if half else torch.float32).eval().requires_grad_(False)
objective = Objective(Schedule.sdxl(), "uniform", teacher, plan.tap_pairs())

def step(batch, noise, timestep):
    with precision(stage.precision, torch.device("cpu")):
        parts = losses(student, objective, batch, noise, timestep)
    parts.total(stage.loss).backward()

step(*blank_batch(plan.shape, (64, 64), 1))
given = blank_batch(plan.shape, (side, side), rows)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
step(*given)
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side_px", "rows", "keys"),
    [
        (128, 48, {}),
        (256, 16, {}),
        (256, 16, {"precision": "bf16"}),
        (256, 64, {"gradient_checkpointing": True}),
    ],
)
def test_the_memory_of_a_rehearsed_step_is_that_of_a_real_one(
    side_px: int, rows: int, keys: dict[str, object]
) -> None:
    """Within a tenth of the activations: what the allocator and the libraries take is not rehearsed."""
    command = [sys.executable, "-c", MEASURED, str(side_px), str(rows), json.dumps(keys)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=_allocator_that_gives_back()
    )
    real = int(done.stdout)
    stage = tiny.stage(start="teacher", teacher="t", **keys)
    said = rehearse(catalog.find("mini-ssd"), stage, (side_px, side_px), rows, "cpu").peak_bytes
    print(f"{side_px} px, {rows} rows, {keys}: said {said / 1e6:.0f} MB, real {real / 1e6:.0f} MB")
    assert said == pytest.approx(real, rel=0.10)


def _allocator_that_gives_back() -> dict[str, str]:
    import os

    return {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": os.pathsep.join(["src", "."])}


def test_recomputing_activations_and_half_precision_take_less_memory() -> None:
    plan = tiny.plan("mini-ssd")
    plain, recomputed, half = (
        rehearse(plan, tiny.stage(start="teacher", teacher="t", **keys), (64, 64), 8, "cpu").peak_bytes
        for keys in ({}, {"gradient_checkpointing": True}, {"precision": "bf16"})
    )
    assert recomputed < plain and half < plain


@pytest.mark.parametrize(
    "keys",
    [
        {"loss": {"feature_level": "self-attention", "massive": 100.0}},
        {"loss": {"feature_level": "blocks", "feature_weighting": "p2", "feature_mode": "normalised"}},
        {"prediction": "v", "weighting": "min-snr"},
        {"loss": {"feature": 0.0}},
    ],
)
def test_every_kind_of_loss_can_be_rehearsed(keys: dict[str, object]) -> None:
    stage = tiny.stage(start="teacher", teacher="t", **keys)
    seen = rehearse(tiny.plan("mini-ssd"), stage, (64, 64), 2, "cpu")
    assert 0 < seen.kept_bytes <= seen.peak_bytes


def test_taps_at_more_places_keep_more() -> None:
    plan = tiny.plan("mini-ssd")
    blocks, attentions = (
        rehearse(
            plan, tiny.stage(start="teacher", teacher="t", loss={"feature_level": level}), (64, 64), 8, "cpu"
        )
        for level in ("blocks", "self-attention")
    )
    assert blocks.kept_bytes < attentions.kept_bytes


def test_cards_keep_more_under_autocast_than_processors() -> None:
    stage = tiny.stage(start="teacher", teacher="t", precision="bf16")
    card, processor = (rehearse(tiny.plan("mini-ssd"), stage, (64, 64), 8, d) for d in ("cuda", "cpu"))
    assert card.kept_bytes > processor.kept_bytes


def test_a_rehearsal_leaves_no_trace_in_torch() -> None:
    rehearse(tiny.plan("mini-ssd"), tiny.stage(precision="bf16"), (64, 64), 2, "cuda")
    assert torch.get_default_dtype() == torch.float32
    assert type(torch.ones(1)) is torch.Tensor and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("recompute", [False, True])
def test_the_operations_of_a_step_are_those_that_torch_counts(recompute: bool) -> None:
    plan, rows = tiny.plan("mini-ssd"), 2
    stage = tiny.stage(start="teacher", teacher="t", batch=rows, gradient_checkpointing=recompute)
    student = random_unet(plan.shape, torch.float32).train()
    if recompute:
        student.enable_gradient_checkpointing()
    teacher = random_unet(plan.teacher, torch.float32).eval().requires_grad_(False)
    objective = Objective(Schedule.sdxl(), "uniform", teacher, plan.tap_pairs())
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # it knows no other on processors
        losses(student, objective, *blank_batch(plan.shape, (64, 64), rows)).total(stage.loss).backward()
    said = forecast.work(stage, plan, (64, 64), rows).total
    print(f"{said} said, {counter.get_total_flops()} counted")
    assert said == pytest.approx(counter.get_total_flops(), rel=0.12)


def test_memory_by_part_follows_from_what_is_trained_and_shared() -> None:
    plan = tiny.plan("mini-ssd")
    stage = tiny.stage(start="teacher", teacher="t", batch=4, ema=0.9)
    one = foresee(stage, plan, (64, 64), Place())
    n = sum(each.numel() for each in random_unet(plan.shape, torch.float32).parameters())
    n_teacher = sum(each.numel() for each in random_unet(plan.teacher, torch.float32).parameters())
    assert (one.memory.weights, one.memory.gradients, one.memory.average) == (4 * n, 4 * n, 4 * n)
    assert (one.memory.optimizer, one.memory.teacher) == (8 * n, 4 * n_teacher)
    shared = foresee(stage.model_copy(update={"parallel": "fsdp2"}), plan, (64, 64), Place(ranks=2))
    assert shared.rows == 2 and shared.memory.optimizer == 4 * n and shared.memory.teacher == 4 * n_teacher
    some = foresee(stage.model_copy(update={"trainable": ("attn2",), "ema": 0.0}), plan, (64, 64), Place())
    assert some.memory.gradients < one.memory.gradients and some.memory.average == 0
    assert some.memory.weights == one.memory.weights


def test_moments_of_one_byte_are_forecast_as_the_optimizer_keeps_them() -> None:
    plan = tiny.even_plan("mini-ssd")
    stage = tiny.stage(optimizer="adamw8bit")
    unet = random_unet(plan.shape, torch.float32)
    kept = EightBit(dict(unet.named_parameters()), Settings((0.9, 0.999), 0.01)).moments()
    real = sum(each.nbytes for tensors in kept.values() for each in tensors.values())
    seen = foresee(stage, plan, (64, 64), Place())
    assert seen.memory.optimizer == real < 8 * seen.trained


def test_updates_within_the_backward_pass_hold_no_gradients() -> None:
    plan = tiny.plan("mini-ssd")
    keys = {"start": "teacher", "teacher": "t", "clip": 0.0}
    after, within = (
        foresee(tiny.stage(update=when, **keys), plan, (64, 64), Place()) for when in ("step", "backward")
    )
    assert after.memory.gradients > 0 == within.memory.gradients
    assert within.memory.total < after.memory.total


def test_a_checkpoint_takes_the_bytes_it_was_said_to_take(tmp_path: object) -> None:
    from pathlib import Path

    from ssd1b.distill.stages import carry_out

    stage = tiny.stage(steps=2, checkpoint_every=1, keep=2, ema=0.9)
    run = tiny.run(Path(str(tmp_path)) / "run", stage)
    assert carry_out(run)
    seen = foresee(stage, tiny.plan("mini-ssd"), (64, 64), Place())
    saved = sorted((run.folder / "steps").iterdir())
    for folder in saved:
        real = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert real == pytest.approx(seen.checkpoint_bytes, rel=0.25)  # names weigh in a tiny model
    assert len(saved) == 2
