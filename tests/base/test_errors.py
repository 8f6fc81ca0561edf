"""The error tree and its "did you mean"."""

from __future__ import annotations

import inspect

import pytest

from ssd1b.base import errors


def test_every_error_stands_in_the_drawn_tree() -> None:
    classes = [
        one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.UserError)
    ]
    assert len(classes) > 5
    assert all(one.__name__ in (errors.__doc__ or "") for one in classes)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ssd1b", "ssd-1b"),
        ("SSD_1B", "ssd-1b"),
        ("vgea", "vega"),
        ("koala", "koala-700m"),
        ("nothing like it", None),
    ],
)
def test_the_nearest_name_is_found_or_none(typed: str, meant: str | None) -> None:
    assert errors.nearest(typed, ["sdxl", "ssd-1b", "ssd-1b-first", "vega", "koala-700m"]) == meant


def test_a_guess_is_a_question_and_no_guess_is_silence() -> None:
    assert errors.did_you_mean("vgea", ["vega"]) == " Did you mean 'vega'?"
    assert errors.did_you_mean("x", ["vega"]) == ""
