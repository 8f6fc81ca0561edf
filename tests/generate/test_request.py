"""What may be asked for, and how a refusal reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from diffusers import EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import sdxl_scheduler, unet_config

from ssd1b.base.errors import RequestError
from ssd1b.base.units import aspects_of
from ssd1b.generate import schedulers
from ssd1b.generate.model import defaults_of
from ssd1b.generate.request import Request, nearest_aspect, parse_aspect, parse_size, request_of
from ssd1b.plan.catalog import find
from ssd1b.plan.shape import shape_of

FIELDS: dict[str, Any] = {
    "prompt": "a fox",
    "width": 128,
    "height": 128,
    "steps": 20,
    "guidance": 3,
    "scheduler": "euler",
    "seed": 7,
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 100}, "'width': must be a multiple of 8 pixels."),
        ({"height": 8}, "'height': Input should be greater than or equal to 64."),
        ({"steps": 0}, "'steps'"),
        ({"steps": 2.5}, "'steps'"),
        ({"guidance": float("nan")}, "'guidance'"),
        ({"guidance": -1}, "'guidance'"),
        ({"seed": -1}, "'seed'"),
        ({"seed": 2**63}, "'seed'"),
        ({"prompt": 7}, "'prompt'"),
        ({"prompt": "x" * 20_001}, "'prompt'"),
        ({"prompt": "\ud83e"}, "'prompt'"),
        ({"scheduler": "euler-b"}, "Did you mean 'euler-a'"),
        ({"stepps": 20}, "'stepps': is not a field of a request. Did you mean 'steps'?"),
    ],
)
def test_a_wrong_value_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as error:
        request_of({**FIELDS, **change})
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(RequestError, match=r"'width'.*'seed'"):
        request_of({**FIELDS, "width": 1, "seed": -1})


def test_a_request_cannot_be_changed() -> None:
    request = request_of(FIELDS)
    with pytest.raises(ValueError, match="frozen"):
        request.seed = 8


@pytest.mark.parametrize("text", ["1152x896", " 1152 X 896 ", "1152×896", "1152*896"])
def test_a_size_can_be_written_in_several_ways(text: str) -> None:
    assert parse_size(text, 128) == (1152, 896)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "1150x896",
            "multiples of 8; 1150x896 was asked for. The nearest size .* is 1152x896 \\(--aspect 9:7\\)",
        ),
        ("big", "not a size"),
        ("1024", "not a size"),
        ("-8x8", "not a size"),
        ("8x8", "64 to 4096"),
        ("99999x64", "64 to 4096"),
    ],
)
def test_a_size_that_cannot_be_made_is_refused(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_size(text, 128)


def test_the_nine_aspect_ratios_have_the_size_the_model_was_trained_at() -> None:
    assert parse_aspect("9:7", 128) == (1152, 896)
    assert parse_aspect("9/7", 16) == (144, 112)
    assert {parse_aspect(name, 16) for name in aspects_of(16)} == set(aspects_of(16).values())


@pytest.mark.parametrize(
    ("text", "near"), [("16:9", "7:4"), ("3:2", "19:13"), ("1:9", "5:12"), ("2:2", "1:1")]
)
def test_an_unknown_aspect_ratio_names_the_nearest(text: str, near: str) -> None:
    with pytest.raises(RequestError, match=f"The nearest is {near}"):
        parse_aspect(text, 128)


@pytest.mark.parametrize("text", ["", "wide", "0:0", "1:0", "1:1:1"])
def test_what_is_no_ratio_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="not one of the nine"):
        parse_aspect(text, 128)


@given(st.sampled_from(sorted(aspects_of(128).items())), st.integers(1, 16))
def test_a_preset_at_any_scale_is_its_own_nearest(preset: tuple[str, tuple[int, int]], scale: int) -> None:
    name, (width, height) = preset
    assert nearest_aspect(width * scale, height * scale, 128)[0] == name


@pytest.mark.parametrize("name", schedulers.NAMES)
def test_a_scheduler_is_known_again_by_its_own_config(name: str) -> None:
    built = schedulers.build(name, dict(sdxl_scheduler().config), 4)
    assert schedulers.own_name({**built.config, "_class_name": type(built).__name__}) == name


def test_a_scheduler_keeps_the_noise_schedule_of_the_model() -> None:
    config = dict(EulerDiscreteScheduler(beta_start=0.001, beta_end=0.02, beta_schedule="linear").config)
    for name in schedulers.NAMES:
        built = schedulers.build(name, config, 4)
        assert (built.config.beta_start, built.config.beta_end) == (0.001, 0.02)
        assert len(built.timesteps) == 4


def test_an_unknown_scheduler_of_a_model_becomes_euler() -> None:
    assert schedulers.own_name({"_class_name": "HeunDiscreteScheduler"}) == "euler"


@pytest.mark.parametrize(
    ("plan", "side_px", "guidance", "steps"),
    [("ssd-1b", 1024, 9.0, 25), ("vega", 1024, 9.0, 25), ("sdxl", 1024, 5.0, 30), ("mini-ssd", 128, 3.0, 20)],
)
def test_defaults_follow_from_the_shape_of_the_model(
    plan: str, side_px: int, guidance: float, steps: int
) -> None:
    defaults = defaults_of(find(plan).shape, sdxl_scheduler().config)
    assert (defaults.width, defaults.height, defaults.guidance, defaults.steps) == (
        side_px,
        side_px,
        guidance,
        steps,
    )


def test_a_manifest_may_say_what_its_model_is_best_at_and_nonsense_in_it_is_left_out() -> None:
    shape = shape_of(unet_config("tiny-ssd"))
    plain = defaults_of(shape, {})
    said = {"generate": {"steps": 8, "guidance": 2, "scheduler": "unipc", "width": "wide"}}
    chosen = defaults_of(shape, {}, manifest=said)
    assert chosen == replace(plain, steps=8, guidance=2.0, scheduler="unipc", source="the model's manifest")
    assert defaults_of(shape, {}, manifest={"generate": "fast"}) == plain
    assert defaults_of(shape, {}, takes_guidance=True).scheduler == "lcm"


def test_guidance_of_one_or_less_is_no_guidance() -> None:
    assert not Request(**{**FIELDS, "guidance": 1.0}).guided
    assert Request(**{**FIELDS, "guidance": 1.1}).guided
