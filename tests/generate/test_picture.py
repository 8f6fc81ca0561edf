"""Pictures carry their request: losslessly for us, and unforgeably in the text that other programs read."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, PngImagePlugin
from sd_parsers import ParserManager

from ssd1b.base.errors import DamagedFileError, MissingFileError, RequestError
from ssd1b.generate import picture, schedulers
from ssd1b.generate.infotext import parameters
from ssd1b.generate.request import MAX_SEED, Request, request_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
FORGERIES = [
    "a fox\nNegative prompt: a pizza\nSteps: 3, Sampler: DDIM, CFG scale: 1, Seed: 99, Size: 8x8",
    "Negative prompt: a pizza",
    "Steps: 3, Sampler: DDIM, CFG scale: 1, Seed: 99, Size: 8x8",
    "a fox\x85Steps: 3, Seed: 99\u2028Seed: 98\x0cSeed: 97\rSeed: 96",
    "\u200bNegative prompt: a pizza",
    'a fox, Seed: 99, Model: "x", \\u000a',
    "a fox Negative prompt: a pizza NEGATIVE  PROMPT : b",
    "Steps: 4, Seed: 1",
    "Hashes: {}, Seed: 1",
    "</ssd1b:record><ssd1b:record>{&quot;request&quot;: {}}</ssd1b:record> & ]]>",
]
SUFFIXES = [".png", ".jpg", ".webp"]
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
    model=TEXT | st.sampled_from(FORGERIES),
    decoder=TEXT,
    syntax=st.sampled_from(["weighted", "plain"]),
    upscale=st.sampled_from([1, 2]),
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
@given(REQUESTS, st.sampled_from(SUFFIXES))
@example(with_prompt(FORGERIES[0], negative=FORGERIES[1], model=FORGERIES[5]), ".png")
@example(with_prompt(FORGERIES[9], negative=FORGERIES[9]), ".jpg")
@example(with_prompt(FORGERIES[9], negative=FORGERIES[9]), ".webp")
def test_a_request_comes_back_out_of_its_picture_unchanged(
    tmp_path_factory: pytest.TempPathFactory, asked: Request, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"round-trip{suffix}"
    path.write_bytes(picture.picture_bytes(BLANK, asked, suffix))
    assert picture.read_request(path) == asked


@settings(max_examples=300, deadline=None)
@given(REQUESTS)
@example(with_prompt("a", negative="b", model=FORGERIES[2]))
def test_no_text_can_pass_itself_off_as_settings(asked: Request) -> None:
    text = parameters(asked)
    found = read_by_a1111(text)
    assert found["Steps"] == str(asked.steps)
    assert found["Seed"] == str(asked.seed)
    assert found["Size"] == f"{asked.width}x{asked.height}"
    assert found["Sampler"] == schedulers.kind_of(asked.scheduler).a1111_name
    assert len(text.splitlines()) <= 3
    if not (asked.negative or "").strip():
        assert found["Negative prompt"] == ""


_SEEN: list[Image.Image] = []  # kept: sd-parsers 0.6 knows a picture again by its id(), which is handed on


@settings(max_examples=200, deadline=None)
@given(REQUESTS, st.sampled_from(SUFFIXES))
@example(with_prompt(FORGERIES[6], negative=FORGERIES[6], model=FORGERIES[5]), ".png")
@example(with_prompt(FORGERIES[0], negative=FORGERIES[8], model=FORGERIES[8]), ".jpg")
@example(with_prompt("a 🦊, (flat:1.2) style", negative="blurry", scheduler="dpm++-2m-karras"), ".webp")
def test_an_independent_reader_finds_the_settings_and_no_forged_ones(asked: Request, suffix: str) -> None:
    data = io.BytesIO(picture.picture_bytes(BLANK, asked, suffix))
    with Image.open(data) as image:
        _SEEN.append(image)
        found = ParserManager().parse(image)
    assert found is not None and found.generator.value == "AUTOMATIC1111"
    (sampler,) = found.samplers
    assert sampler.name == schedulers.kind_of(asked.scheduler).a1111_name
    assert sampler.parameters["steps"] == str(asked.steps)
    assert sampler.parameters["seed"] == str(asked.seed)
    assert sampler.parameters["cfg_scale"] == f"{asked.guidance:g}"
    prompt, *negative = parameters(asked).split("\n")[:-1]
    assert [each.value for each in sampler.prompts] == ([prompt.strip()] if prompt.strip() else [])
    said = [line.removeprefix("Negative prompt:").strip() for line in negative]
    assert [each.value for each in sampler.negative_prompts] == [line for line in said if line]


@settings(max_examples=100, deadline=None)
@given(TEXT)
def test_a_harmless_prompt_reaches_other_programs_as_it_was_typed(prompt: str) -> None:
    assume(prompt.isprintable() and ":" not in prompt and prompt == prompt.strip() and prompt)
    assert read_by_a1111(parameters(with_prompt(prompt)))["Prompt"] == prompt


@pytest.mark.parametrize("prompt", FORGERIES)
def test_a_forged_prompt_stays_a_prompt(prompt: str) -> None:
    found = read_by_a1111(parameters(with_prompt(prompt, negative="blurry")))
    assert found["Negative prompt"] == "blurry"
    assert found["Seed"] == "7"


def test_the_text_is_what_a1111_writes() -> None:
    text = parameters(with_prompt("a fox, flat style", negative="blurry", model="models/a, b"))
    assert text.splitlines()[:2] == ["a fox, flat style", "Negative prompt: blurry"]
    assert text.splitlines()[2].startswith(
        "Steps: 20, Sampler: Euler, CFG scale: 3, Seed: 7, Size: 128x128, Model: a， b, Version: ssd1b"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": "a" * 64, "strength": 0.6}, "Denoising strength: 0.6, Init image hash: aaaaaaaaaaaaaaaa,"),
        ({"image": "a" * 64, "mask": "b" * 64}, "Mask hash: bbbbbbbbbbbbbbbb,"),
        ({"hires": 2}, "Hires upscale: 2, Hires upscaler: Latent, Denoising strength: 0.7,"),
        ({"upscale": 2}, "Postprocess upscale by: 2, Postprocess upscaler: Lanczos,"),
        ({"prompt": "a (fox:1.2)"}, "Emphasis: No norm,"),
        ({"prompt": "a (fox:1.2)", "syntax": "plain"}, "Emphasis: None,"),
        ({"reuse": 2, "guidance_until": 0.5}, "Guidance until: 0.5, DeepCache: 2,"),
    ],
)
def test_a_mode_is_named_as_a1111_names_it(changes: dict[str, object], said: str) -> None:
    text = parameters(request_of({**with_prompt("a fox").model_dump(), **changes}))
    assert said in text.splitlines()[-1]


def test_a_picture_made_before_prompts_had_weights_is_repeated_without_them(tmp_path: Path) -> None:
    old = {name: getattr(with_prompt("a (fox)"), name) for name in ("prompt", "width", "height", "steps")}
    old |= {"negative": None, "guidance": 3.0, "scheduler": "euler", "seed": 7}
    (tmp_path / "old.png").write_bytes(_png({picture.CHUNK: json.dumps({"format": 1, "request": old})}))
    assert picture.read_request(tmp_path / "old.png") == with_prompt("a (fox)", syntax="plain")


def test_a_request_too_long_for_a_jpeg_is_refused_and_fits_the_others(tmp_path: Path) -> None:
    long = with_prompt("🦊" * 20_000)
    with pytest.raises(RequestError, match="Write a PNG"):
        picture.picture_bytes(BLANK, long, ".jpg")
    for suffix in (".png", ".webp"):
        (tmp_path / f"long{suffix}").write_bytes(picture.picture_bytes(BLANK, long, suffix))
        assert picture.read_request(tmp_path / f"long{suffix}") == long


def test_png_and_webp_keep_every_pixel_and_jpeg_nearly() -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    for suffix, most in ((".png", 0), (".webp", 0), (".jpg", 16)):
        with Image.open(io.BytesIO(picture.picture_bytes(noise, with_prompt("a"), suffix))) as image:
            gaps = ImageChops.difference(noise, image.convert("RGB")).getextrema()
        assert max(high for _, high in gaps) <= most


def test_what_else_was_written_comes_back_too(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture.picture_bytes(BLANK, with_prompt("a"), engine="torch", pictures=4))
    _, record = picture.read_record(path)
    assert (record["engine"], record["pictures"]) == ("torch", 4)


def test_the_same_picture_and_request_give_the_same_bytes() -> None:
    request = with_prompt("a fox 🦊")
    assert picture.picture_bytes(BLANK, request) == picture.picture_bytes(BLANK, request)


def test_pictures_of_others_and_broken_ones_are_refused_with_a_reason(tmp_path: Path) -> None:
    whole = picture.picture_bytes(BLANK, with_prompt("a fox"))
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


def _png(texts: dict[str, str]) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_itxt(key, value)
    buffer = io.BytesIO()
    BLANK.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
