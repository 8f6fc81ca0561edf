"""The one sentence above a comparison."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.evaluate.example import example

from ssd1b.evaluate.comparison import Comparison, Entry
from ssd1b.evaluate.scores import Scores, share


def scored(entry: Entry, passed: int) -> Entry:
    return replace(entry, scores=Scores({}, share(passed, 100)))


@pytest.mark.parametrize(("theirs", "ours", "doubtful"), [(24, 24, True), (90, 84, True), (90, 30, False)])
def test_the_headline_says_when_two_scores_cannot_be_told_apart(
    theirs: int, ours: int, doubtful: bool
) -> None:
    shown = example()
    headline = Comparison("", (scored(shown.first, theirs), scored(shown.last, ours)), (), ()).headline()
    assert ("do not tell the two scores apart" in headline) == doubtful
    assert f"{ours}\u00a0% (" in headline
