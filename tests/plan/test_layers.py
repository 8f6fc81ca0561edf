"""What follows from a plan: configs, weight maps, tap pairs; and plans that cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plan.meta import state_shapes, unet, unet_of

from ssd1b.base.errors import PlanError
from ssd1b.plan import catalog, count, ledger
from ssd1b.plan.catalog import MINI_SDXL, SDXL
from ssd1b.plan.layers import LayerPlan, TapPair, cut, whole
from ssd1b.plan.shape import MID
from ssd1b.plan.tensors import tensors

LEVELS = ("sites", "blocks", "self-attention")


@st.composite
def plans(draw: st.DrawFn) -> LayerPlan:
    """Any plan on the miniature teacher that diffusers can build."""
    mid = draw(st.sampled_from([(), (0,), (0, 1)]))
    thin = draw(st.booleans())
    resnets = {MID: mid}
    if thin:
        resnets |= {f"down_blocks.{level}": (0,) for level in range(3)}
        resnets |= {f"up_blocks.{level}": (0, 2) for level in range(3)}
    whole_plan = cut(MINI_SDXL, name="any", resnets=resnets)
    kept = {}
    for site in whole_plan.kept:
        indices = range(MINI_SDXL.depths[site])
        kept[site] = tuple(sorted(draw(st.sets(st.sampled_from(indices)))))
    if mid == (0, 1):
        kept["down_blocks.2.attentions.0"] = kept[f"{MID}.attentions.0"]
    return cut(MINI_SDXL, name="any", kept=kept, resnets=resnets)


@pytest.mark.parametrize("teacher", [SDXL, MINI_SDXL], ids=["sdxl", "mini"])
def test_a_plan_that_keeps_everything_changes_nothing(teacher) -> None:
    plan = whole(teacher)
    assert plan.keeps_everything
    assert plan.shape == teacher
    assert plan.dropped() == ()
    assert all(new == old for new, old in plan.weight_map().items())
    assert all(plan.teacher_key(key) == key for key in tensors(teacher))


@settings(deadline=None, max_examples=10)
@given(plans())
def test_every_weight_of_a_student_fits_the_teacher_weight_it_comes_from(plan: LayerPlan) -> None:
    teacher = tensors(plan.teacher)
    for key, shape in tensors(plan.shape).items():
        assert teacher[plan.teacher_key(key)] == shape
        assert plan.student_key(plan.teacher_key(key)) == key


@settings(deadline=None, max_examples=10)
@given(plans())
def test_what_is_kept_and_what_is_dropped_make_the_teacher(plan: LayerPlan) -> None:
    all_of_it = whole(plan.teacher)
    gone = sum(entry.total for entry in ledger.only_in(all_of_it, plan))
    assert count.parameters(plan.shape) + gone == count.parameters(plan.teacher)
    assert ledger.only_in(plan, all_of_it) == ()
    dropped = plan.dropped()
    lost = [key for key in tensors(plan.teacher) if plan.student_key(key) is None]
    assert len(lost) + len(tensors(plan.shape)) == len(tensors(plan.teacher))
    assert all(key.startswith(dropped) for key in lost)


@settings(deadline=None, max_examples=4)
@given(plans())
def test_diffusers_builds_the_student_that_the_plan_promises(plan: LayerPlan) -> None:
    assert state_shapes(unet_of(plan)) == tensors(plan.shape)


@pytest.mark.parametrize("name", catalog.NAMES)
def test_the_weight_map_covers_each_key_of_the_student_once(name: str) -> None:
    plan = catalog.find(name)
    prefixes, keys = plan.weight_map(), state_shapes(unet(name))
    under = {key: [one for one in prefixes if key.startswith(f"{one}.")] for key in keys}
    assert all(len(found) == 1 for found in under.values())
    assert {found[0] for found in under.values()} == set(prefixes)
    assert len(set(prefixes.values())) == len(prefixes)


@pytest.mark.parametrize("name", ["ssd-1b", "vega"])
def test_the_keys_of_the_public_students_are_a_subset_of_sdxls_with_equal_shapes(name: str) -> None:
    assert state_shapes(unet(name)).items() <= state_shapes(unet("sdxl")).items()


def test_ssd_1b_takes_the_blocks_that_were_found_in_its_weights() -> None:
    plan = catalog.find("ssd-1b")
    site = "down_blocks.2.attentions.1.transformer_blocks"
    assert plan.teacher_key(f"{site}.3.attn1.to_q.weight") == f"{site}.6.attn1.to_q.weight"
    assert plan.student_key(f"{site}.6.ff.net.2.bias") == f"{site}.3.ff.net.2.bias"
    assert plan.student_key(f"{site}.3.ff.net.2.bias") is None
    assert plan.kept["up_blocks.0.attentions.2"] == tuple(range(10))


def test_koala_takes_the_last_residual_block_of_each_up_block() -> None:
    plan = catalog.find("koala-700m")
    assert plan.teacher_key("up_blocks.0.resnets.1.conv1.weight") == "up_blocks.0.resnets.2.conv1.weight"
    assert plan.teacher_key("up_blocks.1.attentions.1.norm.bias") == "up_blocks.1.attentions.2.norm.bias"
    assert plan.shape.mid_resnets == 0
    assert plan.unet_config()["mid_block_type"] is None


def test_there_are_26_tap_pairs_from_sdxl_to_ssd_1b_in_running_order() -> None:
    pairs = catalog.find("ssd-1b").tap_pairs()
    sites = [pair.student_site for pair in pairs]
    assert len(pairs) == 26
    assert sum(".resnets." in site for site in sites) == 15
    assert sum(".attentions." in site for site in sites) == 10
    assert TapPair(MID, MID) in pairs
    assert sites[:3] == ["down_blocks.0.resnets.0", "down_blocks.0.resnets.1", "down_blocks.1.resnets.0"]
    assert sites[3] == "down_blocks.1.attentions.0"


def test_the_26_sites_are_those_of_the_original_script() -> None:
    """Its hooks, as loops: outputs of resnets[i] and attentions[i], and of the middle (commit 3bf633b)."""
    resnets = [f"down_blocks.{d}.resnets.{r}" for d in range(3) for r in range(2)]
    resnets += [f"up_blocks.{u}.resnets.{r}" for u in range(3) for r in range(3)]
    attentions = [f"down_blocks.{d}.attentions.{a}" for d in (1, 2) for a in range(2)]
    attentions += [f"up_blocks.{u}.attentions.{a}" for u in (0, 1) for a in range(3)]
    pairs = catalog.find("ssd-1b").tap_pairs()
    assert sorted(p.student_site for p in pairs) == sorted([*resnets, *attentions, MID])
    assert all(p.student_site == p.teacher_site for p in pairs), "SSD-1B drops blocks, never whole sites"
    assert [p.student_site for p in pairs] == [
        "down_blocks.0.resnets.0", "down_blocks.0.resnets.1",
        "down_blocks.1.resnets.0", "down_blocks.1.attentions.0",
        "down_blocks.1.resnets.1", "down_blocks.1.attentions.1",
        "down_blocks.2.resnets.0", "down_blocks.2.attentions.0",
        "down_blocks.2.resnets.1", "down_blocks.2.attentions.1",
        "mid_block",
        "up_blocks.0.resnets.0", "up_blocks.0.attentions.0",
        "up_blocks.0.resnets.1", "up_blocks.0.attentions.1",
        "up_blocks.0.resnets.2", "up_blocks.0.attentions.2",
        "up_blocks.1.resnets.0", "up_blocks.1.attentions.0",
        "up_blocks.1.resnets.1", "up_blocks.1.attentions.1",
        "up_blocks.1.resnets.2", "up_blocks.1.attentions.2",
        "up_blocks.2.resnets.0", "up_blocks.2.resnets.1", "up_blocks.2.resnets.2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sites", "blocks", "self_attention"),
    [
        ("ssd-1b", 26, 7, 34),
        ("vega", 26, 7, 15),
        ("koala-1b", 16, 7, 30),
        ("koala-700m", 15, 6, 21),
        ("sdxl", 26, 7, 70),
    ],
)
def test_each_level_compares_what_the_student_has(
    name: str, sites: int, blocks: int, self_attention: int
) -> None:
    plan = catalog.find(name)
    counts = [len(plan.tap_pairs(level)) for level in LEVELS]
    assert counts == [sites, blocks, self_attention]


def test_self_attention_of_a_kept_block_is_compared_with_the_block_it_was() -> None:
    pairs = {p.student_site: p.teacher_site for p in catalog.find("ssd-1b").tap_pairs("self-attention")}
    site = "down_blocks.2.attentions.1.transformer_blocks"
    assert pairs[f"{site}.3.attn1"] == f"{site}.6.attn1"
    koala = {p.student_site: p.teacher_site for p in catalog.find("koala-1b").tap_pairs("self-attention")}
    assert koala["up_blocks.0.attentions.1.transformer_blocks.5.attn1"].startswith("up_blocks.0.attentions.2")


@settings(deadline=None, max_examples=10)
@given(plans(), st.sampled_from(LEVELS))
def test_every_tap_pair_names_modules_that_exist(plan: LayerPlan, level: str) -> None:
    student, teacher = tensors(plan.shape), tensors(plan.teacher)
    for pair in plan.tap_pairs(level):
        assert any(key.startswith(f"{pair.student_site}.") for key in student)
        assert any(key.startswith(f"{pair.teacher_site}.") for key in teacher)


@settings(deadline=None, max_examples=10)
@given(plans())
def test_a_plan_means_the_same_on_a_wider_teacher(plan: LayerPlan) -> None:
    wide = plan.on(SDXL, name="wide")
    assert wide.name == "wide"
    assert wide.weight_map() == plan.weight_map()
    assert wide.tap_pairs() == plan.tap_pairs()
    assert wide.on(MINI_SDXL, name="any") == plan


def test_a_plan_is_not_used_on_a_teacher_of_other_depths() -> None:
    with pytest.raises(PlanError, match="cannot be used on this teacher"):
        catalog.find("ssd-1b").on(catalog.find("vega").shape)


def test_a_student_can_be_the_teacher_of_a_smaller_one() -> None:
    middle = catalog.find("ssd-1b").shape
    sites = dict.fromkeys(middle.depths, (0,))
    plan = cut(middle, name="tiny", kept=sites)
    assert plan.shape.transformer_blocks == 10
    assert count.parameters(plan.shape) < count.parameters(middle)


REFUSED = {
    "no such site": (
        {"kept": {"down_blocks.2.attentions.7": (0,)}},
        "Did you mean 'down_blocks.2.attentions",
    ),
    "no such block": ({"resnets": {"down_block.2": (0,)}}, "Did you mean 'down_blocks.2'"),
    "no such index": ({"kept": {"down_blocks.1.attentions.0": (2,)}}, "indices 0 to 1"),
    "out of order": ({"kept": {"down_blocks.1.attentions.0": (1, 0)}}, "must ascend"),
    "twice the same": ({"kept": {"down_blocks.1.attentions.0": (0, 0)}}, "must ascend"),
    "the first of a down block": ({"resnets": {"down_blocks.1": (1,)}}, "changes the number of channels"),
    "the last of an up block": ({"resnets": {"up_blocks.1": (0, 1)}}, "changes the number of channels"),
    "one block thinner": ({"resnets": {"down_blocks.1": (0,)}}, "same number in every down block"),
    "the middle's second only": ({"resnets": {MID: (1,)}}, "it can keep"),
    "a middle of its own depth": ({"kept": {"mid_block.attentions.0": (0,)}}, "both the same number"),
    "a site without its residual block": (
        {"kept": {"mid_block.attentions.0": (0,)}, "resnets": {MID: (0,)}},
        "Keep both or neither",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plan_that_cannot_be_is_refused_with_its_reason(case: str) -> None:
    options, reason = REFUSED[case]
    with pytest.raises(PlanError, match=reason) as refusal:
        cut(SDXL, name="mine", **options)
    assert "'mine'" in str(refusal.value)


def test_a_plan_must_speak_about_every_site_that_stays() -> None:
    plan = catalog.find("ssd-1b")
    fewer = {site: kept for site, kept in plan.kept.items() if site != "up_blocks.1.attentions.2"}
    with pytest.raises(PlanError, match=r"up_blocks\.1\.attentions\.2"):
        replace(plan, kept=fewer)


def test_a_key_that_no_layer_has_is_refused() -> None:
    with pytest.raises(PlanError, match=r"no weight called 'mid_block\.resnets\.1\.conv1"):
        catalog.find("ssd-1b").teacher_key("mid_block.resnets.1.conv1.weight")
