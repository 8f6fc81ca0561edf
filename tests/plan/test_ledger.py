"""The ledger between plans, to the last parameter."""

from __future__ import annotations

import pytest

from ssd1b.base.errors import PlanError
from ssd1b.plan import catalog, count
from ssd1b.plan.ledger import Entry, kept_cells, only_in


def test_sdxl_minus_ssd_1b_is_36_transformer_blocks_one_residual_block_and_one_shell() -> None:
    entries = only_in(catalog.find("sdxl"), catalog.find("ssd-1b"))
    assert set(entries) == {
        Entry(34, "transformer block", 1280, 34_755_840),
        Entry(2, "transformer block", 640, 10_005_120),
        Entry(1, "attention shell", 1280, 3_281_920),
        Entry(1, "residual block", 1280, 31_138_560),
    }
    assert sum(entry.total for entry in entries) == 1_236_129_280
    assert only_in(catalog.find("ssd-1b"), catalog.find("sdxl")) == ()


def test_where_the_36_transformer_blocks_go() -> None:
    plan = catalog.find("ssd-1b")
    gone = {site: depth - len(plan.kept.get(site, ())) for site, depth in plan.teacher.depths.items()}
    by_block = {
        block: sum(n for site, n in gone.items() if site.startswith(block)) for block in plan.teacher.blocks
    }
    assert by_block == {
        "down_blocks.0": 0,
        "down_blocks.1": 0,
        "down_blocks.2": 12,
        "mid_block": 10,
        "up_blocks.0": 12,
        "up_blocks.1": 2,
        "up_blocks.2": 0,
    }


@pytest.mark.parametrize("name", catalog.NAMES)
def test_the_kept_cells_hold_the_whole_student(name: str) -> None:
    plan = catalog.find(name)
    assert sum(kept_cells(plan).values()) == count.parameters(plan.shape)


def test_two_plans_of_one_size_differ_in_which_blocks_they_keep() -> None:
    first, second = catalog.find("ssd-1b"), catalog.find("ssd-1b-first")
    assert (
        only_in(first, second) == only_in(second, first) == (Entry(4, "transformer block", 1280, 34_755_840),)
    )


def test_plans_of_different_teachers_are_not_compared() -> None:
    with pytest.raises(PlanError, match="different teachers"):
        only_in(catalog.find("ssd-1b"), catalog.find("mini-ssd"))


def test_an_entry_reads_as_a_sentence() -> None:
    assert str(Entry(2, "transformer block", 640, 10_005_120)) == (
        "2 × transformer blocks of width 640 (10,005,120 each)"
    )
