"""All randomness of training: which timestep, which noise, whose caption is dropped.

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


def noise(seed: int, ids: tuple[str, ...], step: int, like_BCHW: Tensor) -> Tensor:
    """Standard normal noise, float32 on the processor, each sample from its own generator."""
    noise_BCHW = torch.empty(like_BCHW.shape, dtype=torch.float32)
    generator = torch.Generator()
    for row_CHW, name in zip(noise_BCHW, ids, strict=True):
        generator.manual_seed(seed_of(seed, "noise", name, step))
        row_CHW.normal_(generator=generator)
    return noise_BCHW


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
