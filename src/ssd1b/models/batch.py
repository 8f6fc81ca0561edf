"""What one training step is fed: cached latents with their captions already encoded.

Knows the shapes and the promise of a batch source. Does not know where pictures come from, how they
were encoded, or what is done with them.

Legend: B samples, C channels, H W latent rows and columns, T tokens, 6 the SDXL size conditioning
(original height, width, crop top, left, target height, width; pixels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Caption:
    """One encoded caption: what the two text encoders say, for a single sample."""

    context_TC: Tensor
    pooled_C: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one picture size. `ids` names each sample for good: all randomness hangs on it."""

    latent_BCHW: Tensor  # scaled by the VAE's scaling factor, as the UNet wants it
    context_BTC: Tensor
    pooled_BC: Tensor
    time_ids_B6: Tensor
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        """Catch a source that mixes up its lengths where it happens, not in the loss."""
        rows = {
            len(self.ids),
            self.latent_BCHW.shape[0],
            self.context_BTC.shape[0],
            self.pooled_BC.shape[0],
            self.time_ids_B6.shape[0],
        }
        assert len(rows) == 1, f"a batch's parts disagree on the number of samples: {sorted(rows)}"


class BatchSource(Protocol):
    """Where batches come from. A pure function: asked twice, it answers the same.

    `batch_at(step, rank, world)` is rank's share of the global batch number `step`; the shares of all
    ranks together are the same samples whatever `world` is. Nothing is remembered between calls, so a
    run resumes at any step by asking for it.
    """

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Share of rank `rank` of `world` in global batch `step` (counted from 0)."""
        ...

    def empty(self) -> Caption:
        """The empty caption, encoded: what a sample sees when its caption is dropped."""
        ...
