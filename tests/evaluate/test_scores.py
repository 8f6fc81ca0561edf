"""Scores: what passes, and how sure one can be of a share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd1b.evaluate.prompts import KINDS, Prompt, prompts
from ssd1b.evaluate.scores import Z_95, Score, mean, passes, scores, share
from ssd1b.mini.reader import Reading, Seen


def perfect(prompt: Prompt) -> Reading:
    """What the reader would see in a picture that shows exactly what was asked."""
    x, y = {"left": (0.27, 0.5), "right": (0.73, 0.5), "top": (0.5, 0.27), "bottom": (0.5, 0.73)}.get(
        prompt.place, (0.5, 0.5)
    )
    return Reading(tuple(Seen(noun, prompt.style, 0.9, x, y) for noun in prompt.nouns), prompt.background)


def first(kind: str) -> Prompt:
    return next(prompt for prompt in prompts() if prompt.kind == kind)


NOTHING = Reading((), "nowhere")
STRANGER = Seen("dragon", "flat", 0.5, 0.5, 0.5)


def changed(reading: Reading, **fields: object) -> Reading:
    """A reading whose things differ in some fields."""
    from dataclasses import replace

    return Reading(tuple(replace(thing, **fields) for thing in reading.things), reading.background)


def test_a_perfect_model_scores_one_and_a_blank_page_nothing() -> None:
    asked = prompts()
    assert scores([(prompt, perfect(prompt)) for prompt in asked]).overall.score == 1.0
    assert scores([(prompt, NOTHING) for prompt in asked]).overall.score == 0.0


def test_one_object_wants_nothing_else_in_the_picture() -> None:
    prompt = first("one_object")
    seen = perfect(prompt)
    assert not passes(prompt, Reading((*seen.things, STRANGER), seen.background))
    assert not passes(prompt, Reading((STRANGER,), seen.background))
    assert passes(prompt, changed(seen, style="another"))


def test_two_objects_wants_both() -> None:
    prompt = first("two_objects")
    seen = perfect(prompt)
    assert not passes(prompt, Reading(seen.things[:1], seen.background))
    assert passes(prompt, Reading(seen.things[::-1], "another"))


@pytest.mark.parametrize("at", [0.5, 0.47, 0.53])
def test_a_thing_in_the_middle_is_at_no_place(at: float) -> None:
    for prompt in prompts():
        if prompt.kind == "position":
            assert not passes(prompt, changed(perfect(prompt), x=at, y=at))


def test_left_is_not_right_and_top_is_not_bottom() -> None:
    for prompt in prompts():
        if prompt.kind == "position":
            seen = perfect(prompt).things[0]
            assert not passes(prompt, changed(perfect(prompt), x=1 - seen.x, y=1 - seen.y))


def test_background_looks_at_the_ground_only() -> None:
    prompt = first("background")
    assert passes(prompt, Reading((), prompt.background))
    assert not passes(prompt, Reading(perfect(prompt).things, "another"))


@pytest.mark.parametrize("kind", ["style", "held_out"])
def test_style_and_held_out_want_noun_and_style(kind: str) -> None:
    for prompt in prompts():
        if prompt.kind == kind:
            assert passes(prompt, perfect(prompt))
            assert not passes(prompt, changed(perfect(prompt), style="another"))
            assert not passes(prompt, Reading(perfect(prompt).things[1:], prompt.background))


# scipy 1.17: binomtest(passed, n).proportion_ci(0.95, "wilson")
SCIPY = [
    (0, 1, 0.0, 0.7934506856),
    (0, 96, 0.0, 0.0384755879),
    (96, 96, 0.9615244121, 1.0),
    (48, 96, 0.4019240245, 0.5980759755),
    (88, 96, 0.8441009676, 0.9571693758),
    (3, 16, 0.0659159907, 0.4300888096),
    (500, 560, 0.8645111871, 0.9158500175),
]


@pytest.mark.parametrize(("passed", "n", "low", "high"), SCIPY)
def test_the_interval_of_a_share_is_scipys_wilson_interval(
    passed: int, n: int, low: float, high: float
) -> None:
    ours = share(passed, n)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-9)


@given(st.integers(1, 600).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_at_the_ends_of_the_interval_the_score_test_just_accepts(counts: tuple[int, int]) -> None:
    """Wilson's definition: the ends are the shares p with |p̂ - p| = z · sqrt(p (1 - p) / n)."""
    passed, n = counts
    ours = share(passed, n)
    assert 0 <= ours.low <= ours.score <= ours.high <= 1
    for end in (ours.low, ours.high):
        assert abs(ours.score - end) == pytest.approx(Z_95 * (end * (1 - end) / n) ** 0.5, abs=1e-9)


@given(st.lists(st.integers(0, 90), min_size=6, max_size=6))
def test_overall_is_the_mean_of_the_kinds_and_surer_than_the_least_sure_of_them(passed: list[int]) -> None:
    parts = [share(count, 90) for count in passed]
    whole = mean(parts)
    assert whole.score == pytest.approx(sum(passed) / 540)
    assert whole.low <= whole.score <= whole.high
    assert whole.high - whole.low < max(part.high - part.low for part in parts)


def test_the_interval_of_the_mean_holds_the_truth_about_as_often_as_it_says() -> None:
    """Drawn from known shares 1000 times, the true mean lies inside in 93 to 98 % of them."""
    import numpy as np

    rng = np.random.default_rng(0)
    truth = np.array([0.95, 0.6, 0.8, 0.99, 0.9, 0.5])
    inside = 0
    for _ in range(1000):
        whole = mean([share(int(k), 90) for k in rng.binomial(90, truth)])
        inside += whole.low <= truth.mean() <= whole.high
    assert 930 <= inside <= 985


def test_a_single_part_is_its_own_mean() -> None:
    part = share(7, 9)
    assert mean([part]) == Score(part.score, pytest.approx(part.low), pytest.approx(part.high), 7, 9)


def test_each_kind_has_a_criterion() -> None:
    assert all(passes(first(kind), perfect(first(kind))) for kind in KINDS)
