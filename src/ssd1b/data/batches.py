"""Which samples the batch at a step holds: a pure function of (buckets, batch, seed, step).

Every batch is of one bucket. A bucket is passed over again and again, each pass in an order of its own that
takes every sample exactly once; batches are cut from that endless row one after the other. What a pass leaves
over begins the next batch together with the start of the next pass, so no sample and no bucket is ever
dropped, however small, and all samples are seen equally often.

An epoch is as many batches as that makes for one pass over everything: bucket by bucket, the batches whose
end lies in it, in an order drawn for the epoch. Nothing is remembered: any step is found at once, by
arithmetic. The orders are keyed permutations that answer for one position without making the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ssd1b.base.seeds import seed_of

_ROUNDS = 4
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Picks:
    """The samples of one global batch: a bucket, row numbers in it, and which pass each row is from."""

    bucket: str
    rows: tuple[int, ...]
    passes: tuple[int, ...]
    epoch: int

    def share(self, rank: int, world: int) -> Picks:
        """Rank's slice; all ranks together have every row once, in the same order for any `world`."""
        mine = slice(rank, None, world)
        return Picks(self.bucket, self.rows[mine], self.passes[mine], self.epoch)


@dataclass(frozen=True, slots=True)
class Order:
    """The order of all batches. `counts`: samples of each bucket; `batch`: samples of a global batch."""

    counts: Mapping[str, int]
    batch: int
    seed: int

    def at(self, step: int) -> Picks:
        """The global batch number `step`, counted from 0."""
        epoch = self.epoch_of(step)
        slots = {name: self._before(name, epoch + 1) - self._before(name, epoch) for name in self.counts}
        place = step - self.before(epoch)
        slot = int(permuted(np.array([place]), sum(slots.values()), seed_of(self.seed, "epoch", epoch))[0])
        for name, many in slots.items():
            if slot < many:
                return self._cut(name, self._before(name, epoch) + slot, epoch)
            slot -= many
        raise AssertionError(f"slot of step {step} is in no bucket")

    def epoch_of(self, step: int) -> int:
        """The epoch that a step is in."""
        epoch = step * self.batch // sum(self.counts.values())
        while self.before(epoch + 1) <= step:
            epoch += 1
        return epoch

    def before(self, epoch: int) -> int:
        """How many batches come before an epoch: its first step."""
        return sum(self._before(name, epoch) for name in self.counts)

    def left_over(self, epoch: int) -> dict[str, int]:
        """How many samples of each bucket wait at the end of an epoch for the next to fill a batch."""
        return {name: count * (epoch + 1) % self.batch for name, count in self.counts.items()}

    def _before(self, bucket: str, epoch: int) -> int:
        return self.counts[bucket] * epoch // self.batch

    def _cut(self, bucket: str, number: int, epoch: int) -> Picks:
        """Batch `number` of a bucket's endless row."""
        count = self.counts[bucket]
        places = number * self.batch + np.arange(self.batch)
        rows = np.empty(self.batch, np.int64)
        passes = places // count
        for each in np.unique(passes):
            here = passes == each
            key = seed_of(self.seed, "pass", bucket, int(each))
            rows[here] = permuted(places[here] - each * count, count, key)
        return Picks(bucket, tuple(rows.tolist()), tuple(passes.tolist()), epoch)


def permuted(places: np.ndarray, n: int, key: int) -> np.ndarray:
    """Where positions 0 … n - 1 go in the permutation that belongs to a key.

    A Feistel network of four rounds over the next power of four, walked on until it answers below `n`
    (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
    """
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    keys = [np.uint64(seed_of(key, "round", number)) for number in range(_ROUNDS)]
    answer = _feistel(places.astype(np.uint64), half, keys)
    while (outside := answer >= n).any():
        answer[outside] = _feistel(answer[outside], half, keys)
    return answer.astype(np.int64)


def _feistel(value: np.ndarray, half: int, keys: list[np.uint64]) -> np.ndarray:
    mask, bits = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = value >> bits, value & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    joined: np.ndarray = left << bits | right
    return joined


def _mixed(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every bit of the answer hangs on every bit of the value."""
    value = value * _MIX[0]
    value = (value ^ value >> np.uint64(30)) * _MIX[1]
    value = (value ^ value >> np.uint64(27)) * _MIX[2]
    mixed: np.ndarray = value ^ value >> np.uint64(31)
    return mixed
