"""Plans from YAML: what they mean, and how their mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssd1b.base.errors import PlanError
from ssd1b.formats.plan_file import find_plan
from ssd1b.plan import catalog

SSD = """
name: my-ssd
about: as SSD-1B
teacher: sdxl
mid: resnet
keep:
  down_blocks.2.attentions.0: [0, 1, 2, 6]
  down_blocks.2.attentions.1: [0, 1, 2, 6]
  up_blocks.0.attentions.0: [0, 1, 2, 6]
  up_blocks.0.attentions.1: [0, 1, 2, 6]
  up_blocks.1.attentions.1: [0]
  up_blocks.1.attentions.2: [0]
"""


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return str(path)


def test_ssd_1b_written_by_hand_is_ssd_1b(tmp_path: Path) -> None:
    plan = find_plan(written(tmp_path, SSD))
    assert (plan.name, plan.about) == ("my-ssd", "as SSD-1B")
    assert plan.weight_map() == catalog.find("ssd-1b").weight_map()
    assert plan.unet_config() == catalog.find("ssd-1b").unet_config()


def test_a_plan_that_says_nothing_keeps_everything(tmp_path: Path) -> None:
    assert find_plan(written(tmp_path, "{name: all, teacher: sdxl}")).keeps_everything


def test_koala_written_by_hand_is_koala(tmp_path: Path) -> None:
    down = "".join(f"  down_blocks.{i}: [0]\n" for i in range(3))
    up = "".join(f"  up_blocks.{i}: [0, 2]\n" for i in range(3))
    keep = "".join(
        f"  {site}: [0, 1, 2, 3, 4]\n"
        for site in ("down_blocks.2.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.2")
    )
    plan = find_plan(
        written(tmp_path, f"name: k\nteacher: sdxl\nmid: none\nresnets:\n{down}{up}keep:\n{keep}")
    )
    assert plan.shape == catalog.find("koala-700m").shape


def test_a_catalog_name_is_found_by_name() -> None:
    assert find_plan("vega") == catalog.find("vega")
    with pytest.raises(PlanError, match="Did you mean 'ssd-1b'"):
        find_plan("ssd1b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SSD.replace("keep:", "kep:"), r"unknown key 'kep'\. Did you mean 'keep'\?"),
        (SSD.replace("teacher: sdxl", "teacher: sdx"), r"'sdx'.*Did you mean 'sdxl'"),
        (SSD.replace("name: my-ssd", ""), "key 'name' is missing"),
        (SSD.replace("mid: resnet", "mid: half"), r"key 'mid'.*'none', 'resnet' or 'full'"),
        (
            SSD.replace("[0, 1, 2, 6]", "0"),
            r"key 'keep.down_blocks.2.attentions.0': input should be a valid list",
        ),
        (
            SSD.replace("[0, 1, 2, 6]", "[0, one]"),
            r"'keep.down_blocks.2.attentions.0.1': input should be a valid int",
        ),
        (SSD.replace("[0, 1, 2, 6]", "[0, 1, 2, 16]"), r"plan.yaml: .*down_blocks.2.attentions.0"),
        (
            SSD.replace("down_blocks.2.attentions.1", "down_blocks.2.attention.1"),
            "Did you mean 'down_blocks.2.attentions.1'",
        ),
        (SSD + "  up_blocks.1.attentions.2: [1]\n", "written twice"),
        (SSD + "resnets:\n  mid_block: [0]\n", "says twice"),
        ("- a\n- b\n", "holds no plan"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_mistakes_are_named_with_their_key_and_the_file(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        find_plan(written(tmp_path, text))


def test_a_plan_file_that_is_not_there_is_named() -> None:
    with pytest.raises(PlanError, match=r"no plan file nowhere\.yaml"):
        find_plan("nowhere.yaml")
