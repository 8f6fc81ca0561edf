"""Randomness that hangs on names instead of on a generator's state."""

from __future__ import annotations

import torch
from tests.distill import tiny

from ssd1b.distill import draws
from ssd1b.models.batch import Caption

LIKE_BCHW = torch.empty(3, 4, 8, 8)
IDS = ("a", "b", "c")


def test_a_sample_gets_the_same_noise_whoever_sits_beside_it() -> None:
    together = draws.noise(7, IDS, 5, LIKE_BCHW)
    alone = draws.noise(7, ("b",), 5, LIKE_BCHW[:1])
    assert torch.equal(together[1], alone[0])
    assert draws.timesteps(7, IDS, 5, 1000)[1] == draws.timesteps(7, ("b",), 5, 1000)[0]


def test_noise_changes_with_seed_step_and_sample() -> None:
    base = draws.noise(0, IDS, 0, LIKE_BCHW)
    assert not torch.equal(base, draws.noise(1, IDS, 0, LIKE_BCHW))
    assert not torch.equal(base, draws.noise(0, IDS, 1, LIKE_BCHW))
    assert not torch.equal(base[0], base[1])


def test_drawing_leaves_torchs_own_generator_alone() -> None:
    before = torch.random.get_rng_state()
    draws.noise(0, IDS, 0, LIKE_BCHW)
    draws.timesteps(0, IDS, 0, 1000)
    assert torch.equal(before, torch.random.get_rng_state())


def test_noise_is_standard_normal_and_timesteps_are_uniform() -> None:
    ids = tuple(str(i) for i in range(2000))
    noise = draws.noise(0, ids, 0, torch.empty(2000, 4, 4, 4))
    timestep_B = draws.timesteps(0, ids, 0, 1000)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert timestep_B.min() >= 0 and timestep_B.max() < 1000
    assert abs(timestep_B.float().mean() - 499.5) < 25


def test_offset_noise_moves_whole_channels_and_nothing_else() -> None:
    plain, moved = (draws.noise(7, IDS, 5, LIKE_BCHW, offset) for offset in (0.0, 0.5))
    shift = moved - plain
    flat = shift.mean((2, 3), keepdim=True)
    torch.testing.assert_close(shift, flat.expand_as(shift), rtol=0.0, atol=1e-6)
    assert flat.flatten().unique().numel() == 12, "each channel of each sample by its own number"
    alone = draws.noise(7, ("b",), 5, LIKE_BCHW[:1], 0.5)
    assert torch.equal(moved[1], alone[0])
    ids = tuple(str(i) for i in range(2000))
    like = torch.empty(2000, 4, 1, 1)
    many = draws.noise(0, ids, 0, like, 0.5) - draws.noise(0, ids, 0, like)
    assert abs(many.std() - 0.5) < 0.02


def test_a_nudge_is_noise_of_its_own_and_none_where_none_is_asked_for() -> None:
    assert draws.nudge(7, IDS, 5, LIKE_BCHW, 0.0) is None
    nudge = draws.nudge(7, IDS, 5, LIKE_BCHW, 0.1)
    noise = draws.noise(7, IDS, 5, LIKE_BCHW)
    assert abs(nudge.std() - 0.1) < 0.01
    assert abs((nudge * noise).mean()) < 0.01, "independent of the noise that is to be found"
    assert torch.equal(nudge[1], draws.nudge(7, ("b",), 5, LIKE_BCHW[:1], 0.1)[0])


def test_about_the_asked_share_of_captions_is_dropped_both_encodings_at_once() -> None:
    batch = tiny.TinyBatches(batch=200).batch_at(0)
    empty = Caption(torch.full((5, 12), 9.0), torch.full((8,), 9.0))
    dropped = draws.drop_captions(batch, empty, 0.25, 0, 0)
    context_B = (dropped.context_BTC == 9.0).all(2).all(1)
    pooled_B = (dropped.pooled_BC == 9.0).all(1)
    assert torch.equal(context_B, pooled_B)
    assert 25 <= int(context_B.sum()) <= 75
    assert torch.equal(dropped.latent_BCHW, batch.latent_BCHW)
    assert draws.drop_captions(batch, empty, 0.0, 0, 0) is batch
