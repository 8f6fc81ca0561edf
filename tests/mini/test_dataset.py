"""The mini batch source: a pure function of the step, whatever the number of ranks."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from ssd1b.base.errors import RecipeError
from ssd1b.mini import embedded
from ssd1b.mini.dataset import MiniBatches, MiniData
from ssd1b.mini.scenes import BUCKETS


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> MiniBatches:
    cache = tmp_path_factory.mktemp("cache")
    return MiniBatches(embedded.folder(embedded.PARTS), MiniData(scenes=72), 6, 0, cache)


def test_a_batch_has_one_size_and_says_so(source) -> None:
    seen = set()
    for step in range(20):
        batch = source.batch_at(step)
        height, width = (side * 8 for side in batch.latent_BCHW.shape[-2:])
        assert (width, height) in BUCKETS
        assert batch.time_ids_B6.tolist() == [[height, width, 0, 0, height, width]] * 6
        seen.add((width, height))
    assert len(seen) > 3


def test_a_step_asked_twice_answers_the_same(source) -> None:
    first, again = source.batch_at(5), source.batch_at(5)
    assert first.ids == again.ids
    for name in ("latent_BCHW", "context_BTC", "pooled_BC"):
        assert torch.equal(getattr(first, name), getattr(again, name))


def test_a_batch_depends_on_nothing_but_seed_and_step(source) -> None:
    """Not on what was asked before, on any generator's state, or on the object that is asked."""
    asked = {step: source.batch_at(step) for step in (0, 7, 3)}
    random.seed(1), torch.manual_seed(1), np.random.seed(1)
    other = MiniBatches(embedded.folder(embedded.PARTS), source.data, 6, 0, source.folder.parent)
    state = random.getstate(), torch.random.get_rng_state()
    for step, batch in sorted(asked.items()):
        again = other.batch_at(step)
        assert again.ids == batch.ids
        assert torch.equal(again.latent_BCHW, batch.latent_BCHW)
        assert torch.equal(again.context_BTC, batch.context_BTC)
        assert torch.equal(again.time_ids_B6, batch.time_ids_B6)
    assert state[0] == random.getstate() and torch.equal(state[1], torch.random.get_rng_state())
    elsewhere = MiniBatches(embedded.folder(embedded.PARTS), source.data, 6, 1, source.folder.parent)
    assert [elsewhere.batch_at(s).ids for s in range(4)] != [source.batch_at(s).ids for s in range(4)]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_out_the_samples_of_one_process(source, world) -> None:
    whole = source.batch_at(9)
    shares = [source.batch_at(9, rank, world) for rank in range(world)]
    assert sorted(name for share in shares for name in share.ids) == sorted(whole.ids)


def test_latents_have_about_unit_variance(source) -> None:
    latents = torch.cat([source.batch_at(step).latent_BCHW.flatten() for step in range(6)])
    assert 0.7 < float(latents.std()) < 1.3


def test_latents_are_made_once(source, monkeypatch) -> None:
    monkeypatch.setattr("ssd1b.mini.dataset.load_vae", None)
    again = MiniBatches(embedded.folder(embedded.PARTS), MiniData(scenes=72), 6, 0, source.folder.parent)
    assert torch.equal(again.batch_at(2).latent_BCHW, source.batch_at(2).latent_BCHW)


def test_a_mistyped_data_key_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match="'scenes'"):
        MiniData.parse({"scnes": 10})
    with pytest.raises(RecipeError, match="whole number"):
        MiniData.parse({"scenes": "many"})
