"""The plans that have a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssd1b.base.errors import PlanError
from ssd1b.plan import catalog, count

DOCS = Path(__file__).parents[2] / "docs" / "plan.md"
BLOCKS = {
    "sdxl": 70,
    "sdxl-mid": 60,
    "ssd-1b": 34,
    "ssd-1b-first": 34,
    "vega": 15,
    "koala-1b": 30,
    "koala-700m": 21,
}
TWINS = {"mini-sdxl": "sdxl", "mini-ssd-mid": "sdxl-mid", "mini-ssd": "ssd-1b", "mini-vega": "vega"}


def test_every_name_leads_to_a_plan_of_that_name() -> None:
    assert len(set(catalog.NAMES)) == len(catalog.NAMES)
    for name in catalog.NAMES:
        plan = catalog.find(name)
        assert plan.name == name
        assert plan.about
        assert plan.provenance


@pytest.mark.parametrize("name", BLOCKS)
def test_the_plans_keep_their_published_number_of_transformer_blocks(name: str) -> None:
    assert catalog.find(name).shape.transformer_blocks == BLOCKS[name]


@pytest.mark.parametrize("name", TWINS)
def test_a_miniature_is_cut_as_its_twin(name: str) -> None:
    mini, full = catalog.find(name), catalog.find(TWINS[name])
    assert mini.weight_map() == full.weight_map()
    assert mini.shape.channels == (24, 48, 96)


def test_the_miniature_student_is_about_half_of_its_teacher() -> None:
    plan = catalog.find("mini-ssd")
    assert count.parameters(plan.shape) / count.parameters(plan.teacher) <= 0.55


def test_stage_one_removes_nothing_but_the_middle() -> None:
    plan = catalog.find("sdxl-mid")
    assert all(prefix.startswith("mid_block.") for prefix in plan.dropped())
    assert plan.weight_map()["mid_block.resnets.0"] == "mid_block.resnets.0"


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(PlanError, match=r"No layer plan is called 'ssd1b'. Did you mean 'ssd-1b'\?"):
        catalog.find("ssd1b")


def test_a_provenance_says_what_is_not_known() -> None:
    for name in ("ssd-1b", "ssd-1b-first", "vega", "koala-1b", "koala-700m"):
        assert "never published" in catalog.find(name).provenance


def test_the_table_in_the_docs_is_the_catalog() -> None:
    rows = [line.split("|")[1:-1] for line in DOCS.read_text().splitlines() if line.endswith("TFLOP |")]
    told = {name.strip("` "): cells for names, *cells in rows for name in names.split(",")}
    assert set(told) == set(catalog.NAMES)
    for name, (params, blocks, resnets, tflop) in told.items():
        shape = catalog.find(name).shape
        assert int(params.replace(",", "")) == count.parameters(shape)
        assert int(blocks) == shape.transformer_blocks
        assert int(resnets) == sum(map(shape.resnets, shape.blocks))
        assert float(tflop.split()[0]) == pytest.approx(count.flops(shape, 1024, 1024) / 1e12, abs=0.0005)
