"""`ssd1b plan`: what it prints, as a person and as a program read it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ssd1b.cli.main import main
from ssd1b.plan import catalog, count


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out


def test_list_shows_every_plan(capsys: pytest.CaptureFixture[str]) -> None:
    words = printed(capsys, "list")
    assert all(name in words for name in catalog.NAMES)


def test_list_as_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    plans = json.loads(printed(capsys, "list", "--json"))["plans"]
    assert [plan["name"] for plan in plans] == list(catalog.NAMES)
    assert all(plan["params"] == count.parameters(catalog.find(plan["name"]).shape) for plan in plans)


def test_show_as_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(printed(capsys, "show", "ssd-1b", "--json"))
    assert facts["name"] == "ssd-1b"
    assert facts["params"] == 1_331_334_404
    assert facts["transformer_blocks"] == 34
    assert round(facts["flops_1024"] / 1e12, 3) == 4.208
    assert facts["layers"]["down_blocks.2.attentions.0"] == [0, 1, 2, 6]
    assert facts["memory"]["float16"] == 2 * facts["params"]
    assert facts["unet_config"]["mid_block_type"] == "UNetMidBlock2D"
    assert {"about", "provenance", "parts", "tap_pairs"} <= set(facts)


def test_show_counts_the_size_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(printed(capsys, "show", "vega", "--size", "1216x832", "--json"))
    assert facts["size"] == [1216, 832]
    assert facts["flops"] == count.flops(catalog.find("vega").shape, 832, 1216)


def test_show_says_what_is_kept_and_how_sure_that_is(capsys: pytest.CaptureFixture[str]) -> None:
    words = printed(capsys, "show", "ssd-1b")
    assert "0 1 2 6" in words
    assert "1,331,334,404" in words
    assert "never published" in " ".join(words.split())


@pytest.mark.parametrize("size", ["1024", "10x10", "x", "1024x0", "axb"])
def test_a_size_that_is_none_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "show", "vega", "--size", size]) == 2
    assert "such as 1152x896" in capsys.readouterr().err


def test_an_unknown_plan_is_refused_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "show", "ssd1b"]) == 2
    assert "No layer plan is called 'ssd1b'. Did you mean 'ssd-1b'?" in capsys.readouterr().err


def test_diff_is_a_ledger_that_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    words = printed(capsys, "diff", "sdxl", "ssd-1b")
    assert "1,236,129,280" in words
    facts = json.loads(printed(capsys, "diff", "sdxl", "ssd-1b", "--json"))
    cells = facts["only_in"]["sdxl"]["cells"]
    assert sum(cell["params"] for cell in cells) == facts["only_in"]["sdxl"]["params"] == 1_236_129_280
    assert facts["only_in"]["ssd-1b"] == {"params": 0, "cells": []}


def test_a_plan_is_no_different_from_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert "difference of +0" in printed(capsys, "diff", "vega", "vega")


def test_draw_writes_an_svg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "plan.svg"
    assert main(["plan", "draw", "ssd-1b", "--out", str(out)]) == 0
    assert ElementTree.parse(out).getroot().tag.endswith("svg")
    said = capsys.readouterr()
    assert said.out == ""
    assert str(out) in said.err.replace("\n", "")


def test_a_plan_of_ones_own_is_read_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nteacher: sdxl\nmid: resnet\nkeep:\n  down_blocks.2.attentions.0: [0, 9]\n")
    facts = json.loads(printed(capsys, "show", str(path), "--json"))
    assert facts["name"] == "mine"
    assert facts["transformer_blocks"] == 70 - 10 - 8
    assert "transformer block" in printed(capsys, "diff", "sdxl-mid", str(path))


def test_a_plan_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "show", str(tmp_path / "mine.yaml")]) == 2
    assert "mine.yaml" in capsys.readouterr().err
