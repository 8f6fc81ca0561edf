"""The report before a carving: it adds up, and it says the truth."""

from __future__ import annotations

import json
from math import prod

import pytest

from ssd1b.plan import catalog
from ssd1b.plan.count import parameters
from ssd1b.plan.tensors import tensors
from ssd1b.surgery.check import Row, check


def report_rows(name: str) -> dict[str, Row]:
    plan = catalog.find(name)
    return {row.place: row for row in check(dict.fromkeys(tensors(plan.teacher), 1), plan).rows}


@pytest.mark.parametrize("name", catalog.NAMES)
def test_kept_and_dropped_add_up_to_the_exact_parameters(name: str) -> None:
    plan = catalog.find(name)
    sizes = {key: prod(size) for key, size in tensors(plan.teacher).items()}
    report = check(sizes, plan)
    assert report.kept_bytes == parameters(plan.shape)
    assert report.kept_bytes + report.dropped_bytes == parameters(plan.teacher)
    assert report.kept_tensors == len(tensors(plan.shape))
    assert report.kept_tensors + report.dropped_tensors == len(sizes)


def test_ssd_1b_site_by_site() -> None:
    rows = report_rows("ssd-1b")
    site = rows["down_blocks.2.attentions.0"]
    assert site.copied == [(0, 0), (1, 1), (2, 2), (3, 6)]
    assert site.dropped == [3, 4, 5, 7, 8, 9]
    assert (site.count, site.becomes) == (10, "down_blocks.2.attentions.0")
    assert rows["up_blocks.1.attentions.1"].dropped == [1]
    middle = rows["mid_block.attentions.0"]
    assert (middle.becomes, middle.copied, middle.dropped) == (None, [], list(range(10)))
    assert (rows["mid_block.resnets"].copied, rows["mid_block.resnets"].dropped) == ([(0, 0)], [1])
    assert (rows["conv_in"].becomes, rows["conv_in"].count) == ("conv_in", 0)
    assert sum(len(row.dropped) for place, row in rows.items() if "attentions" in place) == 36


def test_koalas_moved_sites_are_shown_under_their_new_names() -> None:
    rows = report_rows("koala-1b")
    assert rows["up_blocks.0.attentions.1"].becomes is None
    assert rows["up_blocks.0.attentions.2"].becomes == "up_blocks.0.attentions.1"
    assert rows["up_blocks.0.resnets"].copied == [(0, 0), (1, 2)]


def test_places_come_in_running_order() -> None:
    places = list(report_rows("ssd-1b"))
    blocks = [place.split(".")[0] for place in places if "block" in place]
    assert blocks == sorted(blocks, key=["down_blocks", "mid_block", "up_blocks"].index)
    assert places[0] == "conv_in" and places[-1] == "conv_out"


def test_the_record_is_json_with_every_place() -> None:
    plan = catalog.find("vega")
    report = check(dict.fromkeys(tensors(plan.teacher), 2), plan)
    record = json.loads(json.dumps(report.record()))
    assert record["plan"] == "vega"
    assert sum(place["kept_bytes"] for place in record["places"]) == record["kept_bytes"] == 2 * 564
