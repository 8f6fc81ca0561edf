"""Layouts by name, plans on teachers, and what is said when they do not match."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ssd1b.base.errors import LayoutError
from ssd1b.formats.pipeline import Part, as_json, write_part
from ssd1b.formats.sdxl_configs import scheduler_config
from ssd1b.formats.unet_layout import fitted, layout_name, refuse_misfits, shape_from_tensors
from ssd1b.plan import catalog
from ssd1b.plan.tensors import tensors

FULL_SIZE = ("sdxl", "sdxl-mid", "ssd-1b", "vega", "koala-1b", "koala-700m")


@pytest.mark.parametrize("name", FULL_SIZE)
def test_every_layout_of_the_catalog_is_known_by_its_own_tensors(name: str) -> None:
    shape = catalog.find(name).shape
    refuse_misfits(tensors(shape), shape, "here")
    assert layout_name(shape) == name


def test_a_layout_at_other_widths_is_still_known_and_an_own_one_is_not() -> None:
    assert layout_name(replace(catalog.SDXL, channels=(64, 128, 256))) == "sdxl"
    assert layout_name(replace(catalog.SDXL, mid_depth=3)) is None


def test_a_plan_fits_a_teacher_of_other_widths() -> None:
    plan = fitted(catalog.find("ssd-1b"), catalog.MINI_SDXL, "here")
    assert plan.shape == catalog.find("mini-ssd").shape


@pytest.mark.parametrize("name", ["ssd-1b", "koala-700m"])
def test_a_plan_does_not_fit_another_layout_and_both_are_named(name: str) -> None:
    with pytest.raises(
        LayoutError, match=rf"here has the layout of '{name}', and plan 'vega' is cut from 'sdxl'"
    ):
        fitted(catalog.find("vega"), catalog.find(name).shape, "here")


def test_an_unnamed_layout_is_called_so() -> None:
    with pytest.raises(LayoutError, match="a layout that has no name here"):
        fitted(catalog.find("vega"), replace(catalog.SDXL, mid_depth=3), "here")


def test_tensors_of_no_unet_are_refused_with_the_first_that_lacks() -> None:
    with pytest.raises(LayoutError, match=r"no UNet|does not hold a UNet.*add_embedding"):
        shape_from_tensors({"x": (1,)}, pooled_dim=1280, where="here")


def test_the_scheduler_without_markers_is_the_published_one() -> None:
    config = scheduler_config(["conv_in.weight"])
    assert (config["beta_start"], config["beta_end"], config["steps_offset"]) == (0.00085, 0.012, 1)
    assert "rescale_betas_zero_snr" not in config


def test_small_files_of_a_part_are_copied_or_written(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    part = Part(
        "tokenizer", {"vocab.json": tmp_path / "vocab.json", "config.json": as_json({"b": 1, "a": [2]})}
    )
    write_part(part, tmp_path / "out")
    assert (tmp_path / "out/vocab.json").read_text() == "{}"
    assert json.loads((tmp_path / "out/config.json").read_text()) == {"a": [2], "b": 1}
