"""SDXL's noise schedule: how much of the picture is left at each timestep, and what a step is worth.

Knows the forward process, what a model may be asked to predict (the noise, "epsilon", or the velocity,
"v"), and the loss weights that follow from the signal-to-noise ratio. Does not know samplers (those are
diffusers'), models or losses.

Legend: T the training timesteps (1000), B samples, CHW latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor

from ssd1b.base.errors import LayoutError

MIN_SNR_GAMMA = 5.0  # arXiv:2303.09556, section 3.4
V_WEIGHT_CAP = 30.0  # without a cap the last timesteps (SNR 0.005) would outweigh all others
_NO_SIGNAL = 2.0**-24  # alpha-bar in place of 0, as diffusers' EulerDiscreteScheduler has it
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}  # diffusers' names and ours


@dataclass(frozen=True, slots=True)
class Schedule:
    """alpha-bar per timestep: the share of the picture's variance that is left (DDPM, arXiv:2006.11239)."""

    alpha_bar_T: Tensor

    @classmethod
    def sdxl(cls) -> Schedule:
        """The "scaled linear" schedule of Stable Diffusion: square roots of beta from 0.00085 to 0.012."""
        beta_T = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
        return cls(torch.cumprod(1.0 - beta_T, dim=0))

    @classmethod
    def of(cls, config: Mapping[str, object], where: str) -> Schedule:
        """The schedule that a diffusers scheduler_config.json describes; `where` names it in errors.

        Raises:
            LayoutError: it is none of the "scaled linear" schedules of the Stable Diffusion family.
        """
        numbers = [config.get(key) for key in ("beta_start", "beta_end", "num_train_timesteps")]
        known = config.get("beta_schedule") == "scaled_linear" and not config.get("trained_betas")
        if not known or not all(isinstance(number, int | float) for number in numbers):
            raise LayoutError(
                f"{where} has no 'scaled_linear' noise schedule with beta_start, beta_end and"
                " num_train_timesteps, as SDXL and its fine-tunes have; other schedules cannot be trained on."
            )
        start, end, n_timesteps = (float(str(number)) for number in numbers)
        beta_T = torch.linspace(start**0.5, end**0.5, int(n_timesteps), dtype=torch.float32) ** 2
        alpha_bar_T = torch.cumprod(1.0 - beta_T, dim=0)
        return cls(
            _without_signal_at_the_end(alpha_bar_T) if config.get("rescale_betas_zero_snr") else alpha_bar_T
        )

    @property
    def ends_in_noise(self) -> bool:
        """Whether nothing of the picture is left at the last timestep, so that only v can be predicted."""
        return bool(self.alpha_bar_T[-1] <= _NO_SIGNAL)

    def __len__(self) -> int:
        """Number of timesteps."""
        return len(self.alpha_bar_T)

    def to(self, device: torch.device) -> Schedule:
        """The same schedule on another device."""
        return Schedule(self.alpha_bar_T.to(device))

    def add_noise(self, latent_BCHW: Tensor, noise_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """The latent at its timestep: sqrt(alpha-bar) * latent + sqrt(1 - alpha-bar) * noise."""
        alpha_bar_B111 = self.alpha_bar_T[timestep_B].view(-1, 1, 1, 1)
        return alpha_bar_B111.sqrt() * latent_BCHW + (1.0 - alpha_bar_B111).sqrt() * noise_BCHW

    def snr(self, timestep_B: Tensor) -> Tensor:
        """Signal-to-noise ratio, alpha-bar / (1 - alpha-bar), one number per sample."""
        alpha_bar_B = self.alpha_bar_T[timestep_B]
        return alpha_bar_B / (1.0 - alpha_bar_B)

    def target(self, prediction: str, latent_BCHW: Tensor, noise_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        """What a perfect model says: the noise, or the velocity.

        v = sqrt(alpha-bar) * noise - sqrt(1 - alpha-bar) * latent (arXiv:2202.00512, appendix D).
        """
        if prediction == "epsilon":
            return noise_BCHW
        alpha_B111, sigma_B111 = self._alpha_sigma(timestep_B)
        return alpha_B111 * noise_BCHW - sigma_B111 * latent_BCHW

    def converted(self, estimate_BCHW: Tensor, noisy_BCHW: Tensor, timestep_B: Tensor, into: str) -> Tensor:
        """The estimate of a model that predicts the other of the two, as what `into` names; float32."""
        alpha_B111, sigma_B111 = self._alpha_sigma(timestep_B)
        if into == "epsilon":
            return alpha_B111 * estimate_BCHW.float() + sigma_B111 * noisy_BCHW
        return (estimate_BCHW.float() - sigma_B111 * noisy_BCHW) / alpha_B111

    def weight(self, weighting: str, timestep_B: Tensor, prediction: str = "epsilon") -> Tensor:
        """Weight of each sample's loss under a named weighting (see WEIGHTINGS) of a prediction."""
        return WEIGHTINGS[prediction][weighting](self.snr(timestep_B))

    def feature_weight(self, weighting: str, timestep_B: Tensor) -> Tensor:
        """Weight of each sample's feature distances under a named weighting (see FEATURE_WEIGHTINGS)."""
        return FEATURE_WEIGHTINGS[weighting](self.snr(timestep_B))

    def _alpha_sigma(self, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar_B111 = self.alpha_bar_T[timestep_B].view(-1, 1, 1, 1)
        return alpha_bar_B111.sqrt(), (1.0 - alpha_bar_B111).sqrt()


def prediction_of(config: Mapping[str, object], where: str) -> str:
    """What the model beside a diffusers scheduler_config.json predicts: "epsilon" or "v".

    Raises:
        LayoutError: it predicts something else.
    """
    said = str(config.get("prediction_type", "epsilon"))
    if said not in _PREDICTIONS:
        raise LayoutError(f"{where} says prediction_type '{said}'; known are {', '.join(_PREDICTIONS)}.")
    return _PREDICTIONS[said]


def prediction_type(prediction: str) -> str:
    """What diffusers calls a prediction in scheduler_config.json."""
    return next(theirs for theirs, ours in _PREDICTIONS.items() if ours == prediction)


def _without_signal_at_the_end(alpha_bar_T: Tensor) -> Tensor:
    """Shifted and scaled so that the last timestep is pure noise (arXiv:2305.08891, algorithm 1)."""
    first, last = alpha_bar_T[0].sqrt(), alpha_bar_T[-1].sqrt()
    rescaled_T: Tensor = ((alpha_bar_T.sqrt() - last) * first / (first - last)) ** 2
    return rescaled_T.clamp(min=_NO_SIGNAL)


def _min_snr(snr_B: Tensor) -> Tensor:
    """min(SNR, gamma) / SNR: less for nearly clean pictures (Min-SNR, arXiv:2303.09556, eq. for epsilon)."""
    return snr_B.clamp(max=MIN_SNR_GAMMA) / snr_B


def _min_snr_v(snr_B: Tensor) -> Tensor:
    """min(SNR, gamma) / (SNR + 1): the same weight of the same error where v is predicted."""
    return snr_B.clamp(max=MIN_SNR_GAMMA) / (snr_B + 1.0)


def _v(snr_B: Tensor) -> Tensor:
    """(SNR + 1) / SNR, capped: makes the epsilon loss equal to the v-prediction loss (arXiv:2202.00512).

    Gives weight to high noise, where the text decides the picture and the plain epsilon loss is blind.
    """
    return ((snr_B + 1.0) / snr_B).clamp(max=V_WEIGHT_CAP)


def _p2(snr_B: Tensor) -> Tensor:
    """1 / (1 + SNR): little for nearly clean pictures, all for noise (P2, arXiv:2204.00227, k and gamma 1).

    There the weight is the loss's own; here it says at which noise the teacher's features are followed.
    """
    return 1.0 / (1.0 + snr_B)


Weighting: TypeAlias = Callable[[Tensor], Tensor]

WEIGHTINGS: Mapping[str, Mapping[str, Weighting]] = MappingProxyType(
    {
        "epsilon": {"uniform": torch.ones_like, "min-snr": _min_snr, "v": _v},
        "v": {"uniform": torch.ones_like, "min-snr": _min_snr_v, "v": torch.ones_like},
    }
)
"""Of the task and output losses, by what is predicted; "v" is the loss of v-prediction under either."""

FEATURE_WEIGHTINGS: Mapping[str, Weighting] = MappingProxyType(
    {"uniform": torch.ones_like, "min-snr": _min_snr, "p2": _p2}
)
"""Of the feature distances, which have no prediction."""
