"""The drawing, read back as XML: what is in it and that nothing lies on top of anything else."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ssd1b.plan import catalog, pen
from ssd1b.plan.draw import svg
from ssd1b.plan.layers import cut

DOCS = Path(__file__).parents[2] / "docs"
SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]


def read(name: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg(catalog.find(name)))


def boxes(root: ElementTree.Element, fill: str) -> list[Box]:
    found = [rect for rect in root.findall(f"{SVG}rect") if rect.get("fill") == fill]
    return [tuple(float(rect.get(key)) for key in ("x", "y", "width", "height")) for rect in found]


def apart(a: Box, b: Box) -> bool:
    return a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]


@pytest.mark.parametrize("name", catalog.NAMES)
def test_every_layer_of_the_teacher_is_one_cell_kept_or_removed(name: str) -> None:
    plan, root = catalog.find(name), read(name)
    in_legend = 1
    assert len(boxes(root, pen.TRANSFORMER)) == plan.shape.transformer_blocks + in_legend
    resnets = sum(map(plan.shape.resnets, plan.shape.blocks))
    assert len(boxes(root, pen.RESIDUAL)) == resnets + in_legend
    everything = plan.teacher.transformer_blocks + sum(map(plan.teacher.resnets, plan.teacher.blocks))
    removed = everything - plan.shape.transformer_blocks - resnets
    assert len(boxes(root, "url(#ghost)")) == removed + (in_legend if removed else 0)


@pytest.mark.parametrize("name", catalog.NAMES)
def test_no_cell_lies_on_another_or_outside_the_page(name: str) -> None:
    root = read(name)
    cells = [
        box
        for fill in (pen.TRANSFORMER, pen.RESIDUAL, pen.SAMPLER, "url(#ghost)")
        for box in boxes(root, fill)
    ]
    assert all(apart(one, other) for one, other in combinations(cells, 2))
    width, height = float(root.get("width")), float(root.get("height"))
    assert all(x > 0 and x + w < width and y > 0 and y + h < height for x, y, w, h in cells)


@pytest.mark.parametrize("name", ["sdxl", "ssd-1b", "koala-700m"])
def test_there_is_one_skip_connection_for_each_residual_block_of_the_up_path(name: str) -> None:
    shape = catalog.find(name).shape
    skips = [path for path in read(name).findall(f"{SVG}path") if "#tip-skip" in path.get("marker-end", "")]
    in_legend = 1
    assert len(skips) == sum(shape.resnets(f"up_blocks.{step}") for step in range(3)) + in_legend


def test_the_title_gives_parameters_before_and_after() -> None:
    words = "".join(read("ssd-1b").itertext())
    assert "2,567,463,684 → 1,331,334,404 parameters" in words
    assert "70 → 34 transformer blocks" in words


def test_names_that_mean_something_in_xml_are_escaped() -> None:
    plan = cut(catalog.SDXL, name="<mine> & yours", about='a "quoted" <b>')
    assert "<mine> & yours" in "".join(ElementTree.fromstring(svg(plan)).itertext())


def test_the_drawing_in_the_docs_is_the_one_that_is_drawn() -> None:
    assert (DOCS / "plan-ssd-1b.svg").read_text() == svg(catalog.find("ssd-1b"))
