"""Pictures carry their request: losslessly for us, and unforgeably in the text that other programs read."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from ssd1b.base.errors import DamagedFileError, MissingFileError, RequestError
from ssd1b.generate import picture, schedulers
from ssd1b.generate.request import MAX_SEED, Request, request_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
FORGERIES = [
    "a fox\nNegative prompt: a pizza\nSteps: 3, Sampler: DDIM, CFG scale: 1, Seed: 99, Size: 8x8",
    "Negative prompt: a pizza",
    "Steps: 3, Sampler: DDIM, CFG scale: 1, Seed: 99, Size: 8x8",
    "a fox\x85Steps: 3, Seed: 99\u2028Seed: 98\x0cSeed: 97\rSeed: 96",
    "\u200bNegative prompt: a pizza",
    'a fox, Seed: 99, Model: "x", \\u000a',
]
SIDES = st.integers(8, 512).map(lambda side: side * 8)
REQUESTS = st.builds(
    Request,
    prompt=TEXT | st.sampled_from(FORGERIES),
    negative=st.none() | TEXT | st.sampled_from(FORGERIES),
    width=SIDES,
    height=SIDES,
    steps=st.integers(1, 1000),
    guidance=st.floats(0, 100),
    scheduler=st.sampled_from(schedulers.NAMES),
    seed=st.integers(0, MAX_SEED),
    model=TEXT,
)
BLANK = Image.new("RGB", (8, 8))


def with_prompt(prompt: str, **changes: object) -> Request:
    fields = {"width": 128, "height": 128, "steps": 20, "guidance": 3.0, "scheduler": "euler", "seed": 7}
    return request_of({"prompt": prompt, **fields, **changes})


def read_by_a1111(text: str) -> dict[str, str]:
    """What AUTOMATIC1111 reads out of "parameters" (the algorithm of its infotext_utils, written anew)."""
    pair = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    *lines, last = text.strip().split("\n")
    if len(pair.findall(last)) < 3:
        lines, last = [*lines, last], ""
    parts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    part = "Prompt"
    for line in (raw.strip() for raw in lines):
        if line.startswith("Negative prompt:"):
            part, line = "Negative prompt", line[16:].strip()
        parts[part].append(line)
    found = {name: "\n".join(said) for name, said in parts.items()}
    for name, value in pair.findall(last):
        found[name] = json.loads(value) if value.startswith('"') else value
    return found


@settings(max_examples=300, deadline=None)
@given(REQUESTS)
@example(with_prompt(FORGERIES[0], negative=FORGERIES[1], model=FORGERIES[5]))
def test_a_request_comes_back_out_of_its_picture_unchanged(
    tmp_path_factory: pytest.TempPathFactory, asked: Request
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.png"
    path.write_bytes(picture.png_bytes(BLANK, asked))
    assert picture.read_request(path) == asked


@settings(max_examples=300, deadline=None)
@given(REQUESTS)
def test_no_text_can_pass_itself_off_as_settings(asked: Request) -> None:
    text = picture.parameters(asked)
    found = read_by_a1111(text)
    assert found["Steps"] == str(asked.steps)
    assert found["Seed"] == str(asked.seed)
    assert found["Size"] == f"{asked.width}x{asked.height}"
    assert found["Sampler"] == schedulers.kind_of(asked.scheduler).a1111_name
    assert len(text.splitlines()) <= 3
    if not (asked.negative or "").strip():
        assert found["Negative prompt"] == ""


@pytest.mark.parametrize("prompt", FORGERIES)
def test_a_forged_prompt_stays_a_prompt(prompt: str) -> None:
    found = read_by_a1111(picture.parameters(with_prompt(prompt, negative="blurry")))
    assert found["Negative prompt"] == "blurry"
    assert found["Seed"] == "7"


def test_the_text_is_what_a1111_writes() -> None:
    text = picture.parameters(with_prompt("a fox, flat style", negative="blurry", model="models/a, b"))
    assert text.splitlines()[:2] == ["a fox, flat style", "Negative prompt: blurry"]
    assert text.splitlines()[2].startswith(
        'Steps: 20, Sampler: Euler, CFG scale: 3, Seed: 7, Size: 128x128, Model: "a, b", Version: ssd1b'
    )


def test_the_same_picture_and_request_give_the_same_bytes() -> None:
    request = with_prompt("a fox 🦊")
    assert picture.png_bytes(BLANK, request) == picture.png_bytes(BLANK, request)


def test_pictures_of_others_and_broken_ones_are_refused_with_a_reason(tmp_path: Path) -> None:
    whole = picture.png_bytes(BLANK, with_prompt("a fox"))
    strangers = {
        "text.png": b"not a picture",
        "short.png": whole[:40],
        "empty.png": b"",
        "other.png": _png({}),
        "list.png": _png({picture.CHUNK: "[1]"}),
        "garbage.png": _png({picture.CHUNK: "{"}),
        "deep.png": _png({picture.CHUNK: "[" * 100_000}),
    }
    for name, data in strangers.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DamagedFileError):
            picture.read_request(tmp_path / name)
    (tmp_path / "wrong.png").write_bytes(_png({picture.CHUNK: '{"request": {"prompt": "a"}}'}))
    with pytest.raises(RequestError, match="'width': is missing"):
        picture.read_request(tmp_path / "wrong.png")
    with pytest.raises(MissingFileError):
        picture.read_request(tmp_path / "none.png")


def test_a_file_is_never_written_over_another_one(tmp_path: Path) -> None:
    first = picture.save(b"one", tmp_path / "a.png")
    second = picture.save(b"two", tmp_path / "a.png")
    assert (first.name, second.name) == ("a.png", "a-2.png")
    assert picture.save(b"two", tmp_path / "a.png") == second
    assert first.read_bytes() == b"one"


@settings(deadline=None)
@given(TEXT)
def test_a_file_name_is_a_plain_name_whatever_the_prompt(prompt: str) -> None:
    name = picture.file_name(with_prompt(prompt))
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}-7\.png", name)


def test_a_contact_sheet_holds_every_picture_in_order() -> None:
    colours = ["red", "lime", "blue", "black", "yellow"]
    sheet = picture.contact_sheet([Image.new("RGB", (10, 6), colour) for colour in colours])
    assert sheet.size == (3 * 10 + 2 * 4, 2 * 6 + 4)
    places = [(0, 0), (14, 0), (28, 0), (0, 10), (14, 10), (28, 10)]
    seen = [sheet.getpixel(place) for place in places]
    wanted = [Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in [*colours, "white"]]
    assert seen == wanted


def _png(texts: dict[str, str]) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_itxt(key, value)
    buffer = io.BytesIO()
    BLANK.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
