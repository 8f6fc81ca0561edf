"""The drawing of a run's log."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from ssd1b.base.errors import MissingFileError
from ssd1b.distill import chart, curves
from ssd1b.plan import catalog


def log(stage: str, start: int, steps: int, losses: dict[str, float]) -> list[dict[str, object]]:
    base = {"stage": stage, "learning_rate": 1e-3, "samples_per_s": 30.0}
    return [base | {"total": start + s, "losses": losses} for s in range(10, steps + 1, 10)]


def test_a_run_of_two_stages_is_drawn_with_both_named_and_26_terms_each() -> None:
    sites = [f"feature/{pair.student_site}" for pair in catalog.find("mini-ssd").tap_pairs()]
    losses = {"task": 0.3, "output": 0.02, "feature": 2.6} | dict.fromkeys(sites, 0.1)
    picture = curves.svg(
        "x", [*log("middle", 0, 50, losses), {"event": "saved"}, *log("blocks", 50, 80, losses)]
    )
    root = ET.fromstring(picture)
    words = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert {"middle", "blocks", "task 0.3", "output 0.02", "feature 2.6", "mid_block 0.1"} <= words
    assert picture.count("stroke-opacity='0.85'") == 2 * 26 + 1  # terms, and the learning rate
    assert len(picture) < 200_000


def test_the_sum_and_names_nobody_knew_are_drawn_and_a_share_has_its_own_panel() -> None:
    deep = "feature/up_blocks.1.attentions.2.transformer_blocks.1"
    new = {"loss": 0.5, "task": 0.3, "strange": 0.2, "masked": 0.01, "masked/mid_block": 0.1, deep: 1.0}
    picture = curves.svg("x", log("only", 0, 50, new))
    words = {element.text for element in ET.fromstring(picture).iter() if element.tag.endswith("text")}
    assert {"loss 0.5", "task 0.3", "strange 0.2", "masked 0.01", "up 1.at 2.block 1 1"} <= words
    assert "Share of the teacher's feature values that is left out" in words
    assert not any("masked/" in (word or "") for word in words)


def test_task_loss_alone_draws_no_empty_panels() -> None:
    words = curves.svg("x", log("only", 0, 50, {"task": 0.3}))
    assert "Losses" in words and "Feature terms" not in words


def test_an_empty_log_says_so() -> None:
    assert "Nothing has been logged yet" in curves.svg("x", [])


def test_zero_losses_and_a_single_point_do_not_break_the_scales() -> None:
    ET.fromstring(curves.svg("x", log("s", 0, 10, {"task": 0.0})))
    ET.fromstring(curves.svg("x", log("s", 0, 10, {"task": 0.5})))


def test_smoothing_begins_at_the_first_value_and_keeps_a_constant() -> None:
    points = [(float(i), 2.0) for i in range(100)]
    assert chart.smoothed(points) == points


def test_curves_are_written_into_the_run(tmp_path: Path) -> None:
    lines = log("s", 0, 30, {"task": 0.5})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut of')
    assert curves.draw(tmp_path).read_text().startswith("<svg")
    with pytest.raises(MissingFileError):
        curves.draw(tmp_path / "elsewhere")
