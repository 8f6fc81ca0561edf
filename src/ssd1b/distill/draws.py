"""All randomness of training: which timestep, which noise, whose caption is dropped, how inputs are nudged.

Each draw is a pure function of (seed, purpose, sample id, step), so there is no generator state to
save, resuming is exact, and the number of ranks changes nothing. Does not know models or losses.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ssd1b.base.seeds import seed_of
from ssd1b.models.batch import Batch, Caption

_SEEDS = 2**63  # seed_of answers below this


def timesteps(seed: int, ids: tuple[str, ...], step: int, n_timesteps: int) -> Tensor:
    """One uniform timestep per sample, int64."""
    return torch.tensor([seed_of(seed, "timestep", name, step) % n_timesteps for name in ids])


def noise(seed: int, ids: tuple[str, ...], step: int, like_BCHW: Tensor, offset: float = 0.0) -> Tensor:
    """Standard normal noise, float32 on the processor, each sample from its own generator.

    With an `offset`, each channel of each sample is moved by that many times one more normal number, so
    that a model learns to change overall brightness (offset noise; N. Guttenberg, "Diffusion with Offset
    Noise", crosslabs.org, 2023).
    """
    noise_BCHW = _normal(seed, "noise", ids, step, torch.Size(like_BCHW.shape[1:]))
    if offset == 0.0:
        return noise_BCHW
    level_BC11 = _normal(seed, "offset", ids, step, torch.Size((like_BCHW.shape[1], 1, 1)))
    return noise_BCHW + offset * level_BC11


def nudge(seed: int, ids: tuple[str, ...], step: int, like_BCHW: Tensor, strength: float) -> Tensor | None:
    """Noise for the input only, that the model is not asked to find; None at strength 0.

    A model so trained forgives its own earlier mistakes (input perturbation, arXiv:2301.11706, strength 0.1).
    """
    if strength == 0.0:
        return None
    return strength * _normal(seed, "nudge", ids, step, torch.Size(like_BCHW.shape[1:]))


def _normal(seed: int, purpose: str, ids: tuple[str, ...], step: int, size: torch.Size) -> Tensor:
    """Normal numbers of `size` for each sample, float32 on the processor."""
    rows = torch.empty(len(ids), *size, dtype=torch.float32)
    generator = torch.Generator()
    for row, name in zip(rows, ids, strict=True):
        generator.manual_seed(seed_of(seed, purpose, name, step))
        row.normal_(generator=generator)
    return rows


def drop_captions(batch: Batch, empty: Caption, share: float, seed: int, step: int) -> Batch:
    """The batch with about `share` of its captions replaced by the empty one."""
    if share == 0.0:
        return batch
    drop_B = torch.tensor([seed_of(seed, "caption", name, step) < share * _SEEDS for name in batch.ids])
    return replace(
        batch,
        context_BTC=torch.where(drop_B[:, None, None], empty.context_TC, batch.context_BTC),
        pooled_BC=torch.where(drop_B[:, None], empty.pooled_C, batch.pooled_BC),
    )
