"""Batches: every sample once in a pass, the same order for any number of ranks, nothing dropped."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd1b.data.batches import Order, permuted

COUNTS = st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e"]), st.integers(1, 40), min_size=1)
ORDERS = st.builds(Order, COUNTS, st.integers(1, 12), st.integers(0, 2**31))


def samples(order: Order, epoch: int) -> Counter[tuple[str, int]]:
    """How often each sample is in the batches of an epoch."""
    steps = range(order.before(epoch), order.before(epoch + 1))
    picks = [order.at(step) for step in steps]
    assert all(each.epoch == epoch for each in picks)
    return Counter((each.bucket, row) for each in picks for row in each.rows)


@settings(deadline=None)
@given(ORDERS)
def test_an_epoch_has_every_sample_once_but_for_the_rest_that_is_reported(order) -> None:
    seen, everything = samples(order, 0), {(b, row) for b, n in order.counts.items() for row in range(n)}
    assert set(seen.values()) <= {1} and set(seen) <= everything
    waiting = Counter(bucket for bucket, _ in everything - set(seen))
    assert dict(waiting) == {bucket: n for bucket, n in order.left_over(0).items() if n}
    assert all(n < order.batch for n in order.left_over(0).values())


@settings(deadline=None)
@given(ORDERS, st.integers(2, 9))
def test_over_epochs_all_samples_are_seen_equally_often_up_to_one(order, epochs) -> None:
    seen: Counter[tuple[str, int]] = sum((samples(order, epoch) for epoch in range(epochs)), Counter())
    for bucket, n in order.counts.items():
        used = n * epochs - order.left_over(epochs - 1)[bucket]
        often = [seen[bucket, row] for row in range(n)]
        assert sum(often) == used and max(often) - min(often) <= 1


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 99))
def test_where_batches_come_out_even_each_epoch_has_every_sample_exactly_once(batch, many, seed) -> None:
    order = Order({"a": batch * many, "b": batch}, batch, seed)
    for epoch in range(3):
        seen = samples(order, epoch)
        assert set(seen.values()) == {1} and len(seen) == batch * (many + 1)
        assert not any(order.left_over(epoch).values())


@settings(deadline=None)
@given(ORDERS, st.integers(0, 500))
def test_a_step_asked_twice_answers_the_same_and_ranks_share_it_out(order, step) -> None:
    whole = order.at(step)
    assert whole == Order(dict(order.counts), order.batch, order.seed).at(step)
    assert len(whole.rows) == order.batch and max(whole.rows) < order.counts[whole.bucket]
    for world in (1, 2, 4):
        rows: list[int] = [0] * order.batch
        for rank in range(world):
            rows[rank::world] = whole.share(rank, world).rows
        assert tuple(rows) == whole.rows


@settings(deadline=None)
@given(ORDERS)
def test_steps_and_epochs_follow_one_another_without_gaps(order) -> None:
    epochs = [order.epoch_of(step) for step in range(60)]
    assert epochs == sorted(epochs)
    assert all(order.before(epoch) <= step < order.before(epoch + 1) for step, epoch in enumerate(epochs))


def test_a_bucket_smaller_than_a_batch_has_its_turn() -> None:
    order = Order({"large": 100, "tiny": 3}, 8, 0)
    turns = Counter(order.at(step).bucket for step in range(order.before(80)))
    assert turns == {"large": 1000, "tiny": 30}


def test_other_seeds_and_other_epochs_are_in_another_order() -> None:
    def rows(seed: int, epoch: int) -> list[tuple[int, ...]]:
        order = Order({"a": 64}, 8, seed)
        return [order.at(step).rows for step in range(8 * epoch, 8 * epoch + 8)]

    assert rows(0, 0) != rows(1, 0) and rows(0, 0) != rows(0, 1)


def test_a_step_far_away_is_found_at_once() -> None:
    order = Order({"a": 12_000_000, "b": 8_000_001}, 32, 0)
    picks = order.at(10**9)
    assert order.before(picks.epoch) <= 10**9 < order.before(picks.epoch + 1)
    assert len(set(picks.rows)) == 32


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_a_keyed_permutation_is_one(n) -> None:
    for key in range(3):
        assert sorted(permuted(np.arange(n), n, key).tolist()) == list(range(n))


def test_a_keyed_permutation_favours_no_place() -> None:
    """Where position 0 goes over 4,000 keys: chi square of 15 degrees, far below the thousandth's 37.7."""
    went = Counter(int(permuted(np.array([0]), 16, key)[0]) for key in range(4000))
    chi = sum((went[place] - 250) ** 2 / 250 for place in range(16))
    assert chi < 37.7
