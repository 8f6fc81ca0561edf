"""Sheets of pictures: every picture where it belongs, every label beside its row or column."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops

from ssd1b.base.errors import RequestError
from ssd1b.generate import sheet
from ssd1b.generate.axes import parse_axes, spread
from ssd1b.generate.request import Request, request_of

FOX = request_of(
    {"prompt": "a fox", "width": 64, "height": 64, "steps": 4, "guidance": 3, "scheduler": "euler", "seed": 7}
)


def test_a_contact_sheet_holds_every_picture_in_order() -> None:
    colours = ["red", "lime", "blue", "black", "yellow"]
    laid = sheet.contact_sheet([Image.new("RGB", (10, 6), colour) for colour in colours])
    assert laid.size == (3 * 10 + 2 * 4, 2 * 6 + 4)
    places = [(0, 0), (14, 0), (28, 0), (0, 10), (14, 10), (28, 10)]
    seen = [laid.getpixel(place) for place in places]
    wanted = [Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in [*colours, "white"]]
    assert seen == wanted


def ink_of(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Where a picture is not white: left, top, right, bottom."""
    return ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()


def test_a_grid_has_its_labels_above_and_at_the_left_and_its_pictures_between() -> None:
    colours = ["red", "lime", "blue", "black", "yellow", "gray"]
    laid = sheet.labelled(
        [Image.new("RGB", (60, 40), c) for c in colours], ["one", "two", "three"], ["a", "b"]
    )
    top, left = laid.height - (2 * 40 + 4), laid.width - (3 * 60 + 2 * 4)
    for number, colour in enumerate(colours):
        row, column = divmod(number, 3)
        at = left + column * 64 + 30, top + row * 44 + 20
        assert laid.getpixel(at) == Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    for column in range(3):
        assert ink_of(laid.crop((left + column * 64, 0, left + column * 64 + 60, top))), "a label"
    for row in range(2):
        assert ink_of(laid.crop((0, top + row * 44, left, top + row * 44 + 40))), "a label"
    assert ink_of(laid.crop((0, 0, left, top))) is None, "nothing in the corner"


def test_a_label_stays_within_its_column() -> None:
    laid = sheet.labelled(
        [Image.new("RGB", (60, 40), "white")] * 2, ["a label far too long for this", ""], [""]
    )
    assert laid.width == 2 * 60 + 4
    ink = ink_of(laid)
    assert ink is not None and ink[2] <= 60


def test_the_first_axis_runs_across_and_the_second_down() -> None:
    axes = parse_axes(["steps=4,8,25", "guidance=3, 7.5"])
    asked = [(request.guidance, request.steps) for request in spread(FOX, axes)]
    assert asked == [(3, 4), (3, 8), (3, 25), (7.5, 4), (7.5, 8), (7.5, 25)]
    assert [axis.labels() for axis in axes] == [
        ["steps 4", "steps 8", "steps 25"],
        ["guidance 3", "guidance 7.5"],
    ]


def test_texts_may_hold_commas_between_quotes() -> None:
    (axis,) = parse_axes(['prompt="a fox, flat style",a pizza'])
    assert [request.prompt for request in spread(FOX, [axis])] == ["a fox, flat style", "a pizza"]
    assert axis.labels() == ["a fox, flat style", "a pizza"]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["steps"], "no side of a grid"),
        (["steps="], "no side of a grid"),
        (["stepps=1,2"], "Did you mean 'steps'"),
        (["width=64,128"], "cannot vary 'width'"),
        (["steps=4,many"], "not a list of whole numbers"),
        (["guidance=low"], "not a list of numbers"),
        (["steps=1,2", "steps=3,4"], "different fields"),
        (["steps=1,2", "seed=1", "guidance=3"], "two sides"),
        (
            ["seed=" + ",".join(map(str, range(30))), "steps=" + ",".join(map(str, range(1, 31)))],
            "900 pictures",
        ),
    ],
)
def test_a_side_that_makes_no_sense_is_refused(texts: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_axes(texts)


def test_a_value_out_of_range_is_refused_as_in_any_request() -> None:
    with pytest.raises(RequestError, match="'steps'"):
        spread(FOX, parse_axes(["steps=0,4"]))
    assert all(isinstance(each, Request) for each in spread(FOX, parse_axes(["scheduler=ddim,lcm"])))
