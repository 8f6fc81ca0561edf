"""The pure middle of training: terms, gradients, and a teacher that stays as it is."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from tests.distill import tiny

from ssd1b.distill import draws
from ssd1b.distill.losses import LossParts
from ssd1b.distill.recipe import LossWeights
from ssd1b.distill.step import Objective, losses, predict_noise
from ssd1b.distill.student import carved, from_scratch
from ssd1b.models.schedule import Schedule

BATCH = tiny.TinyBatches().batch_at(0)
NOISE_BCHW = draws.noise(0, BATCH.ids, 0, BATCH.latent_BCHW)
TIMESTEP_B = draws.timesteps(0, BATCH.ids, 0, 1000)
PAIRS = tiny.plan("mini-ssd").tap_pairs()


@pytest.fixture(scope="module")
def teacher() -> UNet2DConditionModel:
    return tiny.shaken(from_scratch(tiny.plan("mini-sdxl"), 1)).eval().requires_grad_(False)


def run(
    student: UNet2DConditionModel, teacher: UNet2DConditionModel, weighting: str = "uniform"
) -> LossParts:
    objective = Objective(Schedule.sdxl(), weighting, teacher, tiny.plan("mini-ssd").tap_pairs())
    return losses(student, objective, BATCH, NOISE_BCHW, TIMESTEP_B)


def test_the_loss_is_what_the_original_script_computes(teacher: UNet2DConditionModel) -> None:
    """The formula of segmind/SSD-1B's distill_sdxl.py, written out with plain hooks and mse_loss."""
    student = carved(tiny.plan("mini-ssd"), teacher.state_dict())
    ours = run(student, teacher).total(LossWeights())
    ours.backward()
    gradient = student.conv_in.weight.grad.clone()
    student.zero_grad()
    expected = written_out(student, teacher)
    expected.backward()
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradient, student.conv_in.weight.grad, rtol=1e-4, atol=1e-6)


def written_out(student: UNet2DConditionModel, teacher: UNet2DConditionModel) -> torch.Tensor:
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    noisy = scheduler.add_noise(BATCH.latent_BCHW, NOISE_BCHW, TIMESTEP_B)
    cond = {"text_embeds": BATCH.pooled_BC, "time_ids": BATCH.time_ids_B6}
    caught: dict[str, list[torch.Tensor]] = {"student": [], "teacher": []}
    outputs = {}
    for who, unet in (("student", student), ("teacher", teacher)):
        blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
        handles = [unet.mid_block.register_forward_hook(lambda m, i, o, w=who: caught[w].append(o))]
        for block in [b for b in blocks if b is not unet.mid_block]:
            for module in [*block.resnets, *getattr(block, "attentions", [])]:
                keep = lambda m, i, o, w=who: caught[w].append(o[0] if isinstance(o, tuple) else o)  # noqa: E731
                handles.append(module.register_forward_hook(keep))
        outputs[who] = unet(noisy, TIMESTEP_B, BATCH.context_BTC, added_cond_kwargs=cond).sample
        for handle in handles:
            handle.remove()
    mse = torch.nn.functional.mse_loss
    features = [mse(s, t) for s, t in zip(caught["student"], caught["teacher"], strict=True)]
    assert len(features) == 26
    output = mse(outputs["student"], outputs["teacher"])
    return mse(outputs["student"], NOISE_BCHW) + 0.5 * output + 0.5 * sum(features)


def test_a_student_that_is_its_teacher_has_only_the_task_left_to_learn(
    teacher: UNet2DConditionModel,
) -> None:
    whole = tiny.plan("mini-sdxl")
    student = carved(whole, teacher.state_dict())
    objective = Objective(Schedule.sdxl(), "uniform", teacher, whole.tap_pairs())
    parts = losses(student, objective, BATCH, NOISE_BCHW, TIMESTEP_B)
    assert parts.output.item() < 1e-10 and parts.feature_term("faithful").item() < 1e-8
    assert parts.task.item() > 0


def test_the_teacher_gets_no_gradient_and_keeps_its_weights(teacher: UNet2DConditionModel) -> None:
    before = copy.deepcopy(teacher.state_dict())
    run(from_scratch(tiny.plan("mini-ssd"), 0), teacher).total(LossWeights()).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert not teacher.training


def test_gradient_checkpointing_changes_neither_loss_nor_gradient(teacher: UNet2DConditionModel) -> None:
    plain = carved(tiny.plan("mini-ssd"), teacher.state_dict()).train()
    thrifty = copy.deepcopy(plain)
    thrifty.enable_gradient_checkpointing()
    for student in (plain, thrifty):
        run(student, teacher).total(LossWeights()).backward()
    assert len(run(thrifty, teacher).feature) == 26
    for one, other in zip(plain.parameters(), thrifty.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("weighting", ["uniform", "min-snr", "v"])
@pytest.mark.parametrize("feature_weighting", ["uniform", "min-snr", "p2"])
def test_no_weighting_silences_the_teacher(
    teacher: UNet2DConditionModel, prediction: str, weighting: str, feature_weighting: str
) -> None:
    """In other trainers min-SNR dropped the distillation terms; here each of them alone moves the student."""
    student = carved(tiny.plan("mini-ssd"), teacher.state_dict())
    objective = Objective(
        Schedule.sdxl(), weighting, teacher, PAIRS, prediction, prediction, feature_weighting
    )
    parts = losses(student, objective, BATCH, NOISE_BCHW, TIMESTEP_B)
    assert parts.output.item() > 0 and len(parts.feature) == 26
    last_block = student.up_blocks[2].resnets[2].conv2.weight  # conv_out comes after all features
    for alone in (LossWeights(task=0, feature=0), LossWeights(task=0, output=0)):
        (gradient,) = torch.autograd.grad(parts.total(alone), [last_block], retain_graph=True)
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("level", ["sites", "blocks", "self-attention"])
@pytest.mark.parametrize("name", ["mini-ssd", "mini-vega", "koala-700m", "koala-1b"])
def test_every_level_reads_equal_shapes_of_both_models_with_and_without_a_middle(
    teacher: UNet2DConditionModel, name: str, level: str
) -> None:
    plan = tiny.plan(name)
    student = carved(plan, teacher.state_dict()).train()
    pairs = plan.tap_pairs(level)
    objective = Objective(Schedule.sdxl(), "uniform", teacher, pairs)
    parts = losses(student, objective, BATCH, NOISE_BCHW, TIMESTEP_B)
    assert list(parts.feature) == [pair.student_site for pair in pairs]
    parts.feature_term("faithful").backward()
    plain = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    student.zero_grad()
    student.enable_gradient_checkpointing()
    again = losses(student, objective, BATCH, NOISE_BCHW, TIMESTEP_B)
    again.feature_term("faithful").backward()
    thrifty = [p.grad for p in student.parameters() if p.grad is not None]
    for one, other in zip(plain, thrifty, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_velocity_model_is_taught_the_velocity(teacher: UNet2DConditionModel) -> None:
    student = carved(tiny.plan("mini-ssd"), teacher.state_dict())
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    objective = Objective(Schedule.sdxl(), "uniform", teacher, (), "v", "v")
    parts = losses(student, objective, BATCH, NOISE_BCHW, TIMESTEP_B)
    noisy = scheduler.add_noise(BATCH.latent_BCHW, NOISE_BCHW, TIMESTEP_B)
    velocity = scheduler.get_velocity(BATCH.latent_BCHW, NOISE_BCHW, TIMESTEP_B)
    estimate, target = (predict_noise(unet, noisy, TIMESTEP_B, BATCH) for unet in (student, teacher))
    torch.testing.assert_close(parts.task, torch.nn.functional.mse_loss(estimate, velocity))
    torch.testing.assert_close(parts.output, torch.nn.functional.mse_loss(estimate, target))


def test_a_teacher_of_noise_teaches_a_student_of_velocity_the_same(teacher: UNet2DConditionModel) -> None:
    """Judged as epsilon, where the two predictions' distances differ by (SNR + 1) / SNR per sample."""
    student = carved(tiny.plan("mini-ssd"), teacher.state_dict())
    schedule = Schedule.sdxl()
    noisy = schedule.add_noise(BATCH.latent_BCHW, NOISE_BCHW, TIMESTEP_B)
    mixed = Objective(schedule, "uniform", teacher, (), "v", "epsilon")
    parts = losses(student, mixed, BATCH, NOISE_BCHW, TIMESTEP_B)
    with torch.no_grad():
        ours = schedule.converted(
            predict_noise(student, noisy, TIMESTEP_B, BATCH), noisy, TIMESTEP_B, "epsilon"
        )
        gap_B = (ours - predict_noise(teacher, noisy, TIMESTEP_B, BATCH)).square().flatten(1).mean(1)
    snr_B = schedule.snr(TIMESTEP_B)
    torch.testing.assert_close(parts.output, (gap_B * (snr_B + 1) / snr_B).mean(), rtol=1e-3, atol=1e-5)


def test_a_nudge_goes_into_the_input_and_is_not_asked_for(teacher: UNet2DConditionModel) -> None:
    student, schedule = carved(tiny.plan("mini-ssd"), teacher.state_dict()), Schedule.sdxl()
    nudge = draws.nudge(0, BATCH.ids, 0, BATCH.latent_BCHW, 0.1)
    parts = losses(student, Objective(schedule), BATCH, NOISE_BCHW, TIMESTEP_B, nudge)
    noisy = schedule.add_noise(BATCH.latent_BCHW, NOISE_BCHW + nudge, TIMESTEP_B)
    estimate = predict_noise(student, noisy, TIMESTEP_B, BATCH)
    torch.testing.assert_close(parts.task, torch.nn.functional.mse_loss(estimate, NOISE_BCHW))


def test_a_bfloat16_teacher_is_compared_in_float32(teacher: UNet2DConditionModel) -> None:
    student = carved(tiny.plan("mini-ssd"), teacher.state_dict())
    half = copy.deepcopy(teacher).to(torch.bfloat16)
    objective = Objective(Schedule.sdxl(), "min-snr", half, PAIRS, "v", "epsilon", "p2", massive=100.0)
    with torch.autocast("cpu", torch.bfloat16):
        parts = losses(student, objective, BATCH, NOISE_BCHW, TIMESTEP_B)
    values = [parts.task, parts.output, *parts.feature.values(), *parts.feature_scale.values()]
    assert {value.dtype for value in values} == {torch.float32}
    assert all(torch.isfinite(value) for value in values)


def test_the_teacher_leaves_no_graph_and_its_features_are_inference_tensors(
    teacher: UNet2DConditionModel,
) -> None:
    seen: list[tuple[bool, bool]] = []
    note = lambda module, inputs, output: seen.append((output[0].is_inference(), torch.is_grad_enabled()))  # noqa: E731
    handle = teacher.register_forward_hook(note)
    run(carved(tiny.plan("mini-ssd"), teacher.state_dict()), teacher)
    handle.remove()
    assert seen == [(True, False)]
