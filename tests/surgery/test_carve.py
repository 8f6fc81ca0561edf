"""Carving in memory: the right tensors under the right numbers, on anything that stands for a tensor."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd1b.base.errors import LayoutError
from ssd1b.plan import catalog
from ssd1b.plan.layers import cut
from ssd1b.plan.tensors import tensors
from ssd1b.surgery.carve import carve_state

FULL_SIZE = ("sdxl", "sdxl-mid", "ssd-1b", "ssd-1b-first", "vega", "koala-1b", "koala-700m")


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_student_has_exactly_its_tensors_with_their_sizes(name: str) -> None:
    plan = catalog.find(name)
    assert carve_state(tensors(plan.teacher), plan) == tensors(plan.shape)


@pytest.mark.parametrize("name", FULL_SIZE)
def test_stock_diffusers_builds_a_unet_of_exactly_these_tensors(name: str) -> None:
    plan = catalog.find(name)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(plan.unet_config())
    assert {key: tuple(value.shape) for key, value in unet.state_dict().items()} == tensors(plan.shape)


def test_blocks_are_renumbered_and_come_from_where_the_plan_says() -> None:
    plan = catalog.find("ssd-1b")
    names = {key: key for key in tensors(plan.teacher)}  # each tensor is stood for by its name
    student = carve_state(names, plan)
    inside = "transformer_blocks.{}.attn1.to_q.weight"
    site = "up_blocks.0.attentions.1"
    taken = [student[f"{site}.{inside.format(index)}"] for index in range(4)]
    assert taken == [f"{site}.{inside.format(index)}" for index in (0, 1, 2, 6)]
    assert f"{site}.{inside.format(4)}" not in student


def test_a_plan_that_keeps_everything_changes_nothing() -> None:
    plan = catalog.find("sdxl")
    state = {key: object() for key in tensors(plan.teacher)}
    assert carve_state(state, plan) == state
    assert list(carve_state(state, plan)) == list(state)


def test_an_empty_plan_of_a_site_keeps_its_shell_only() -> None:
    plan = cut(catalog.SDXL, name="thin", kept={"down_blocks.1.attentions.0": ()})
    site = "down_blocks.1.attentions.0."
    left = {key for key in carve_state(tensors(plan.teacher), plan) if key.startswith(site)}
    assert {key.removeprefix(site).split(".")[0] for key in left} == {"norm", "proj_in", "proj_out"}


@settings(max_examples=30, deadline=None)
@given(kept=st.sets(st.integers(0, 9), min_size=1), resnets=st.sampled_from([(0,), (0, 1)]))
def test_any_choice_of_blocks_carves_to_what_it_says(kept: set[int], resnets: tuple[int, ...]) -> None:
    site = "up_blocks.0.attentions.2"
    plan = cut(catalog.SDXL, name="any", kept={site: tuple(sorted(kept))}, resnets={"mid_block": resnets})
    names = {key: key for key in tensors(plan.teacher)}
    student = carve_state(names, plan)
    assert student.keys() == tensors(plan.shape).keys()
    assert all(plan.teacher_key(new) == old for new, old in student.items())


def test_a_carved_student_computes_with_the_teachers_own_tensors() -> None:
    plan = catalog.find("mini-ssd")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = UNet2DConditionModel.from_config(catalog.find("mini-sdxl").unet_config())
    state = carve_state(teacher.state_dict(), plan)
    student = UNet2DConditionModel.from_config(plan.unet_config())
    student.load_state_dict(state, strict=True)
    old = teacher.down_blocks[2].attentions[0].transformer_blocks[6].ff.net[2].weight
    new = student.down_blocks[2].attentions[0].transformer_blocks[3].ff.net[2].weight
    assert torch.equal(old, new)


def test_a_state_of_another_layout_is_refused_with_numbers() -> None:
    plan = catalog.find("ssd-1b")
    with pytest.raises(LayoutError, match=r"lacks \d+ tensors .*Give a teacher of the plan's layout"):
        carve_state(tensors(catalog.find("koala-700m").shape), plan)
    with pytest.raises(LayoutError, match=r"1 unknown tensors \(lora.up.weight"):
        carve_state({**tensors(plan.teacher), "lora.up.weight": (1,)}, plan)
