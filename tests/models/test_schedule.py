"""The noise schedule, judged by diffusers' own."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler

from ssd1b.models.schedule import V_WEIGHT_CAP, WEIGHTINGS, Schedule

SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


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


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_every_weighting_is_positive_finite_and_bounded(name: str) -> None:
    weight_T = Schedule.sdxl().weight(name, torch.arange(1000))
    assert torch.isfinite(weight_T).all()
    assert (weight_T > 0).all() and weight_T.max() <= V_WEIGHT_CAP


def test_min_snr_weighs_down_only_nearly_clean_pictures() -> None:
    weight_T = Schedule.sdxl().weight("min-snr", torch.arange(1000))
    assert weight_T[0] < 0.01 and weight_T[999] == 1.0
    assert (weight_T.diff() >= 0).all()
