"""The noise schedule, judged by diffusers' own."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from diffusers.training_utils import compute_snr

from ssd1b.base.errors import LayoutError
from ssd1b.models.schedule import (
    FEATURE_WEIGHTINGS,
    MIN_SNR_GAMMA,
    V_WEIGHT_CAP,
    WEIGHTINGS,
    Schedule,
    prediction_of,
    prediction_type,
)

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CONFIG: dict[str, object] = {**SDXL, "num_train_timesteps": 1000, "trained_betas": None}


def test_the_noise_schedule_is_the_one_of_sdxl() -> None:
    assert torch.equal(Schedule.sdxl().alpha_bar_T, DDPMScheduler(**SDXL).alphas_cumprod)


def test_noise_is_added_as_diffusers_adds_it() -> None:
    latent_BCHW, noise_BCHW = torch.randn(2, 3, 4, 8, 8).unbind()
    timestep_B = torch.tensor([0, 500, 999])
    ours = Schedule.sdxl().add_noise(latent_BCHW, noise_BCHW, timestep_B)
    torch.testing.assert_close(ours, DDPMScheduler(**SDXL).add_noise(latent_BCHW, noise_BCHW, timestep_B))


def test_the_v_weighting_turns_the_epsilon_loss_into_the_v_loss() -> None:
    """Where the cap does not bite: a wrong epsilon and the v that follows from it."""
    oracle, schedule = DDPMScheduler(**SDXL), Schedule.sdxl()
    timestep_B = torch.tensor([50, 400, 700])
    latent_BCHW, noise_BCHW, error_BCHW = torch.randn(3, 3, 4, 8, 8, dtype=torch.float64).unbind()
    alpha_bar_B111 = schedule.alpha_bar_T[timestep_B].double().view(-1, 1, 1, 1)
    noisy_BCHW = schedule.add_noise(latent_BCHW, noise_BCHW, timestep_B)
    guess_BCHW = noise_BCHW + error_BCHW
    clean_BCHW = (noisy_BCHW - (1 - alpha_bar_B111).sqrt() * guess_BCHW) / alpha_bar_B111.sqrt()
    velocity_gap = oracle.get_velocity(latent_BCHW, noise_BCHW, timestep_B) - oracle.get_velocity(
        clean_BCHW, guess_BCHW, timestep_B
    )
    weighted_B = schedule.weight("v", timestep_B) * error_BCHW.square().flatten(1).mean(1)
    torch.testing.assert_close(weighted_B, velocity_gap.square().flatten(1).mean(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize(("prediction", "name"), [(p, n) for p, named in WEIGHTINGS.items() for n in named])
def test_every_weighting_is_positive_finite_and_bounded(prediction: str, name: str, zero_snr: bool) -> None:
    schedule = Schedule.of({**CONFIG, "rescale_betas_zero_snr": zero_snr}, "here")
    weight_T = schedule.weight(name, torch.arange(1000), prediction)
    assert torch.isfinite(weight_T).all()
    assert (weight_T > 0).all() and weight_T.max() <= V_WEIGHT_CAP


@pytest.mark.parametrize(("prediction", "plus"), [("epsilon", 0.0), ("v", 1.0)])
def test_min_snr_is_what_diffusers_trains_with(prediction: str, plus: float) -> None:
    """The lines of diffusers' examples (train_text_to_image_sdxl.py), on its own compute_snr."""
    timestep_T = torch.arange(1000)
    snr_T = compute_snr(DDPMScheduler(**SDXL), timestep_T)
    capped_T = torch.stack([snr_T, MIN_SNR_GAMMA * torch.ones_like(snr_T)], dim=1).min(dim=1)[0]
    ours_T = Schedule.sdxl().weight("min-snr", timestep_T, prediction)
    torch.testing.assert_close(ours_T, capped_T / (snr_T + plus))


def test_min_snr_weighs_one_and_the_same_error_alike_under_both_predictions() -> None:
    schedule, timestep_T = Schedule.sdxl(), torch.arange(1000)
    snr_T = schedule.snr(timestep_T)
    error_in_v = (snr_T + 1) / snr_T  # of an epsilon that is off by 1, squared
    by_v_T = schedule.weight("min-snr", timestep_T, "v") * error_in_v
    torch.testing.assert_close(by_v_T, schedule.weight("min-snr", timestep_T))


def test_the_velocity_is_the_one_of_diffusers() -> None:
    latent_BCHW, noise_BCHW = torch.randn(2, 3, 4, 8, 8).unbind()
    timestep_B = torch.tensor([0, 500, 999])
    ours = Schedule.sdxl().target("v", latent_BCHW, noise_BCHW, timestep_B)
    oracle = DDPMScheduler(**SDXL).get_velocity(latent_BCHW, noise_BCHW, timestep_B)
    torch.testing.assert_close(ours, oracle)
    assert Schedule.sdxl().target("epsilon", latent_BCHW, noise_BCHW, timestep_B) is noise_BCHW


def test_an_estimate_turned_into_the_other_prediction_is_that_predictions_truth() -> None:
    schedule, timestep_B = Schedule.sdxl(), torch.tensor([3, 500, 980])
    latent_BCHW, noise_BCHW = torch.randn(2, 3, 4, 8, 8).unbind()
    noisy_BCHW = schedule.add_noise(latent_BCHW, noise_BCHW, timestep_B)
    for into, other in (("v", "epsilon"), ("epsilon", "v")):
        truth = schedule.target(other, latent_BCHW, noise_BCHW, timestep_B)
        converted = schedule.converted(truth, noisy_BCHW, timestep_B, into)
        wanted = schedule.target(into, latent_BCHW, noise_BCHW, timestep_B)
        torch.testing.assert_close(converted, wanted, rtol=1e-4, atol=1e-4)
        half = schedule.converted(truth.bfloat16(), noisy_BCHW, timestep_B, into)
        assert half.dtype == torch.float32


def test_p2_follows_the_teacher_where_there_is_noise_and_leaves_clean_pictures_alone() -> None:
    schedule, timestep_T = Schedule.sdxl(), torch.arange(1000)
    weight_T = schedule.feature_weight("p2", timestep_T)
    torch.testing.assert_close(weight_T, 1.0 - schedule.alpha_bar_T)
    assert (weight_T.diff() > 0).all() and weight_T[0] < 0.001 and weight_T[999] > 0.99
    for name in FEATURE_WEIGHTINGS:
        assert (schedule.feature_weight(name, timestep_T) <= 1.0).all()


@pytest.mark.parametrize("zero_snr", [False, True])
def test_a_schedule_read_from_a_config_is_the_one_diffusers_builds(zero_snr: bool) -> None:
    config = {**CONFIG, "rescale_betas_zero_snr": zero_snr}
    ours = Schedule.of(config, "here")
    oracle = EulerDiscreteScheduler(**SDXL, rescale_betas_zero_snr=zero_snr)
    torch.testing.assert_close(ours.alpha_bar_T, oracle.alphas_cumprod, rtol=1e-4, atol=1e-7)
    assert ours.ends_in_noise == zero_snr
    if not zero_snr:
        assert torch.equal(ours.alpha_bar_T, Schedule.sdxl().alpha_bar_T)


@pytest.mark.parametrize(
    "changes",
    [{"beta_schedule": "squaredcos_cap_v2"}, {"beta_start": None}, {"trained_betas": [0.1]}],
)
def test_a_schedule_of_another_family_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(LayoutError, match="here has no 'scaled_linear' noise schedule"):
        Schedule.of(CONFIG | changes, "here")


def test_predictions_have_diffusers_names_in_configs() -> None:
    assert prediction_of({}, "here") == "epsilon"
    for ours in WEIGHTINGS:
        assert prediction_of({"prediction_type": prediction_type(ours)}, "here") == ours
    with pytest.raises(LayoutError, match="here says prediction_type 'sample'"):
        prediction_of({"prediction_type": "sample"}, "here")


def test_min_snr_weighs_down_only_nearly_clean_pictures() -> None:
    weight_T = Schedule.sdxl().weight("min-snr", torch.arange(1000))
    assert weight_T[0] < 0.01 and weight_T[999] == 1.0
    assert (weight_T.diff() >= 0).all()
