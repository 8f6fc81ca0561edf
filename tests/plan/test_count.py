"""Parameters and FLOPs against diffusers and torch, and against the published models."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plan.meta import counted_flops, state_shapes, unet

from ssd1b.base.errors import PlanError, RequestError
from ssd1b.plan import catalog, count
from ssd1b.plan.tensors import skips, tensors

PUBLISHED = {
    "sdxl": 2_567_463_684,
    "ssd-1b": 1_331_334_404,
    "vega": 745_225_604,
    "koala-1b": 1_161_184_324,
    "koala-700m": 782_822_724,
}
MEASURED_TFLOP = {"sdxl": 6.761, "ssd-1b": 4.208, "vega": 2.822, "koala-1b": 3.432, "koala-700m": 2.702}
TENSORS = {"sdxl": 1680, "ssd-1b": 944, "vega": 564, "koala-1b": 790, "koala-700m": 584}

names = st.sampled_from(catalog.NAMES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_models_have_exactly_their_parameters(name: str) -> None:
    assert count.parameters(catalog.find(name).shape) == PUBLISHED[name]
    assert len(tensors(catalog.find(name).shape)) == TENSORS[name]


@pytest.mark.parametrize("name", catalog.NAMES)
def test_every_tensor_is_named_and_shaped_as_diffusers_makes_it(name: str) -> None:
    assert tensors(catalog.find(name).shape) == state_shapes(unet(name))


@pytest.mark.parametrize("name", catalog.NAMES)
def test_diffusers_counts_the_same_parameters(name: str) -> None:
    assert count.parameters(catalog.find(name).shape) == unet(name).num_parameters()


@pytest.mark.parametrize("name", MEASURED_TFLOP)
def test_the_flops_at_1024_are_the_measured_ones(name: str) -> None:
    flops = count.flops(catalog.find(name).shape, 1024, 1024)
    assert flops / 1e12 == pytest.approx(MEASURED_TFLOP[name], abs=0.0005)


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("mini-ssd", 16, 16),
        ("mini-ssd", 19, 13),
        ("mini-ssd", 1, 7),
        ("mini-sdxl", 10, 24),
        ("mini-ssd-mid", 13, 19),
        ("mini-vega", 24, 10),
    ],
)
def test_the_flops_are_those_that_torch_counts(name: str, height: int, width: int) -> None:
    ours = count.flops(catalog.find(name).shape, height * 8, width * 8, tokens=24, batch=2)
    assert ours == pytest.approx(counted_flops(unet(name), height, width, tokens=24, batch=2), rel=0.01)


@pytest.mark.parametrize("name", ["ssd-1b", "koala-700m"])
def test_the_flops_of_a_full_size_model_are_those_that_torch_counts(name: str) -> None:
    ours = count.flops(catalog.find(name).shape, 256, 192)
    assert ours == pytest.approx(counted_flops(unet(name), 32, 24, tokens=77, batch=1), rel=0.01)


@settings(deadline=None, max_examples=20)
@given(names)
def test_the_parts_add_up(name: str) -> None:
    shape = catalog.find(name).shape
    assert sum(count.parts(shape).values()) == count.parameters(shape)
    assert sum(count.cells(shape).values()) == count.parameters(shape)


@settings(deadline=None, max_examples=20)
@given(names, st.integers(1, 40), st.integers(1, 40), st.integers(1, 8))
def test_the_flops_grow_with_the_batch_and_turn_with_the_picture(
    name: str, h: int, w: int, batch: int
) -> None:
    shape = catalog.find(name).shape
    one = count.flops(shape, 8 * h, 8 * w)
    assert count.flops(shape, 8 * h, 8 * w, batch=batch) == batch * one
    assert count.flops(shape, 8 * w, 8 * h) == one


def test_the_parts_of_sdxl_are_the_published_ones() -> None:
    parts = count.parts(catalog.SDXL)
    down = [parts[f"down_blocks.{level}"] for level in range(3)]
    up = [parts[f"up_blocks.{level}"] for level in range(3)]
    assert down == [5_432_000, 60_105_600, 757_404_160]
    assert up == [1_206_568_960, 106_343_680, 11_171_840]
    assert parts["mid_block"] == 413_117_440


def test_the_weights_of_ssd_1b_take_two_and_two_thirds_gigabytes_in_half_precision() -> None:
    shape = catalog.find("ssd-1b").shape
    assert count.memory(shape, "float16") == 2 * PUBLISHED["ssd-1b"]
    assert count.memory(shape, "float32") == 2 * count.memory(shape, "bf16")


def test_an_unknown_number_format_is_named() -> None:
    with pytest.raises(PlanError, match="Did you mean 'float16'"):
        count.memory(catalog.SDXL, "flaot16")


@pytest.mark.parametrize(("height", "width"), [(1020, 1024), (0, 8), (8, -8)])
def test_a_picture_that_has_no_latents_is_refused(height: int, width: int) -> None:
    with pytest.raises(RequestError, match="multiples of 8"):
        count.flops(catalog.SDXL, height, width)


def test_the_up_path_takes_exactly_what_the_down_path_stores() -> None:
    for name in catalog.NAMES:
        shape = catalog.find(name).shape
        taken = sum(shape.resnets(block) for block in shape.blocks if block.startswith("up_"))
        assert len(skips(shape)) == taken
