"""`ssd1b generate` as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.formats.hub_server import Hub, serve
from tests.formats.loras import random_changes, write_lora
from tests.tiny import tiny_pipeline, tiny_unet

from ssd1b.cli.main import main
from ssd1b.generate.picture import read_request
from ssd1b.mini import embedded

QUICK = ["--steps", "2", "--size", "64x64", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


def size_of(path: str | Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_a_sentence_alone_becomes_a_picture_of_the_embedded_miniature(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedded, "folder", {"mini-ssd": folder}.__getitem__)
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "a fox, flat style, on a blue background", "--steps", "1", "--seed", "7"]) == 0
    told = capsys.readouterr()
    path = Path(told.out.strip())
    assert path == Path("out/a-fox-flat-style-on-a-blue-background-7.png")
    assert size_of(path) == (128, 128)
    hints = [line for line in told.err.splitlines() if "--model segmind/SSD-1B" in line]
    assert len(hints) == 1 and "embedded miniature 'mini-ssd'" in hints[0]


def test_the_json_is_alone_on_standard_output_and_names_files_seed_and_seconds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["a fox", "--model", str(folder), "--count", "3", "--grid", "--out", str(tmp_path), "--json"]
    assert main(["generate", *words, "--seed", "7", "--negative", "blurry", *QUICK]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(name).name for name in told["files"]] == ["a-fox-7.png", "a-fox-8.png", "a-fox-9.png"]
    assert told["seed"] == 7 and told["seconds"] > 0
    assert size_of(told["grid"]) == (2 * 64 + 4, 2 * 64 + 4)
    request = read_request(Path(told["files"][1]))
    assert (request.prompt, request.negative, request.seed) == ("a fox", "blurry", 8)
    assert request.model == folder.name, "a path of this machine does not belong into a picture"


def test_a_picture_is_the_same_to_the_byte_whatever_it_was_made_together_with(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["a fox", "--model", str(folder), *QUICK]
    main(["generate", *words, "--seed", "7", "--count", "3", "--out", str(tmp_path / "several")])
    main(["generate", *words, "--seed", "8", "--out", str(tmp_path / "one.png")])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "several" / "a-fox-8.png").read_bytes()
    main(["generate", *words, "--seed", "8", "--out", str(tmp_path / "one.png")])
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["one.png"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "100x64"], "multiples of 8"),
        (["--aspect", "16:9"], "The nearest is 7:4"),
        (["--scheduler", "eular"], "Did you mean 'euler'"),
        (["--scheduler", "lcm", "--steps", "99"], "cannot take 99 steps"),
        (["--device", "gpu"], "No device is called 'gpu'"),
        (["--model", "mini-sdd"], "Did you mean 'mini-ssd'"),
    ],
)
def test_a_wrong_option_is_one_paragraph_and_status_two(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["generate", "a fox", "--model", str(folder), "--out", str(tmp_path), *words]) == 2
    told = capsys.readouterr()
    assert said in told.err and "Traceback" not in told.err
    assert told.out == ""
    assert list(tmp_path.iterdir()) == []


def run(capsys: pytest.CaptureFixture[str], *words: object) -> list[Path]:
    """Make pictures, and return the files as they were told."""
    assert main(["generate", *map(str, words), "--device", "cpu"]) == 0
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_is_made_again_to_the_byte(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    first, again = tmp_path / f"first{suffix}", tmp_path / f"again{suffix}"
    words = ["a (fox:1.2), {red|blue}", "--negative", "blurry", "--scheduler", "euler-a", "--hires", "1.5"]
    run(capsys, *words, "--model", folder, "--seed", 7, "--steps", 2, "--size", "64x72", "--out", first)
    run(capsys, "--like", first, "--model", folder, "--out", again)
    assert first.read_bytes() == again.read_bytes()
    other = tmp_path / f"other{suffix}"
    run(capsys, "--like", first, "--model", folder, "--seed", 8, "--out", other)
    changed = read_request(other)
    assert changed == read_request(first).model_copy(update={"seed": 8})


def test_a_miniatures_picture_is_made_again_to_the_byte_without_naming_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    run(capsys, "a fox, flat style", "--engine", "torch", "--seed", 7, "--steps", 2, "--out", first)
    run(capsys, "--like", first, "--engine", "torch", "--out", again)
    assert read_request(again).model == "mini-ssd"
    assert first.read_bytes() == again.read_bytes()


def test_a_picture_is_painted_over_and_the_result_is_made_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.effect_noise((64, 64), 60).convert("RGB").save(photo)
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    half.save(mask)
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    painted = ["--image", photo, "--mask", mask, "--model", folder]
    run(capsys, "a fox", *painted, *QUICK, "--seed", 7, "--out", first)
    with Image.open(first) as made, Image.open(photo) as was:
        right = (32, 0, 64, 64)
        assert made.crop(right).tobytes() == was.crop(right).tobytes()
        assert made.crop((0, 0, 32, 64)).tobytes() != was.crop((0, 0, 32, 64)).tobytes()
    assert read_request(first).strength == 0.6
    run(capsys, "--like", first, *painted, "--out", again)
    assert first.read_bytes() == again.read_bytes()
    assert main(["generate", "--like", str(first), "--model", str(folder)]) == 2
    assert "Give the picture that it was painted over" in capsys.readouterr().err


def test_a_photograph_gives_the_picture_its_shape(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (300, 200), "red").save(tmp_path / "photo.jpg")
    (path,) = run(
        capsys, "a fox", "--image", tmp_path / "photo.jpg", "--model", folder, "--steps", 2, "--out", tmp_path
    )
    assert size_of(path) == (152, 104), "19:13 is nearest to 3:2"


def test_a_file_of_prompts_with_wildcards_makes_a_batch(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "color.txt").write_text("red\nblue\n")
    (tmp_path / "prompts.txt").write_text("a __color__ fox\n# not this\n\na pizza\n")
    words = ["--prompts", tmp_path / "prompts.txt", "--wildcards", tmp_path, "--count", 6, "--seed", 1]
    files = run(capsys, *words, "--model", folder, *QUICK, "--batch", 3, "--out", tmp_path / "out")
    requests = [read_request(path) for path in files]
    assert [request.seed for request in requests] == [*range(1, 7)] * 2
    assert {request.prompt for request in requests} == {"a red fox", "a blue fox", "a pizza"}
    again = run(capsys, "--like", files[0], "--model", folder, "--out", tmp_path / "again")
    assert again[0].read_bytes() == files[0].read_bytes()


def test_a_grid_has_every_pair_of_values_and_its_pictures_beside_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["a fox", "--xy", "steps=1,2,3", "--xy", "guidance=1,4", "--seed", 7, "--size", "64x64"]
    *files, sheet = run(capsys, *words, "--model", folder, "--out", tmp_path, "--format", "webp")
    made = [(read_request(path).steps, read_request(path).guidance) for path in files]
    assert made == [(1, 1), (2, 1), (3, 1), (1, 4), (2, 4), (3, 4)]
    assert sheet.name == "a-fox-grid.webp" and files[0].name == "a-fox-7-steps-1-guidance-1-0.webp"
    width, height = size_of(sheet)
    assert width > 3 * 64 + 2 * 4 and height > 2 * 64 + 4
    run(capsys, "--like", sheet, "--model", folder, "--out", tmp_path / "first.webp")
    assert (tmp_path / "first.webp").read_bytes() == files[0].read_bytes()


def test_a_request_that_no_jpeg_holds_is_refused_before_it_is_drawn(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["🦊" * 19_000, "--model", str(folder), *QUICK, "--plain"]
    assert main(["generate", *words, "--out", str(tmp_path / "fox.jpg")]) == 2
    told = capsys.readouterr().err
    assert "Write a PNG" in told and "drawing" not in told
    assert main(["generate", *words, "--out", str(tmp_path / "fox.webp")]) == 0


def test_show_prints_the_request_of_a_picture(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fox.jpg"
    run(capsys, "a fox\x1b[31m\n[bold]here", "--model", folder, *QUICK, "--seed", 7, "--out", path)
    assert main(["show", str(path)]) == 0
    told = capsys.readouterr().out
    assert "a fox\\x1b[31m\\n[bold]here" in told and "\x1b" not in told
    assert "hires" not in told, "what was not asked for is left out"
    assert main(["show", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["request"] == read_request(path).model_dump() and record["engine"] == "torch"
    assert main(["show", str(path), "--parameters"]) == 0
    assert "Steps: 2, Sampler: Euler" in capsys.readouterr().out
    assert main(["show", str(tmp_path / "none.png")]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Say what is to be seen"),
        (["a fox", "--strength", "0.5"], "give the picture too"),
        (["a fox", "--mask", "PHOTO"], "give the picture with --image"),
        (["a fox", "--image", "none.png"], "There is no picture none.png"),
        (["a fox", "--image", "TEXT"], "cannot be read as a PNG, JPEG or WebP"),
        (["a fox", "--image", "PHOTO", "--mask", "SMALL"], "a mask of the picture's own size"),
        (["a fox", "--image", "PHOTO", "--strength", "0"], "'strength'"),
        (["a fox", "--image", "PHOTO", "--strength", "1.5"], "'strength'"),
        (["a fox", "--hires", "9"], "'hires'"),
        (["a fox", "--upscale", "9"], "'upscale'"),
        (["a __color__ fox"], "--wildcards"),
        (["a (fox:999)"], "weights go up to 100"),
        (["a fox", "--prompts", "TEXT"], "leave the other prompt"),
        (["--prompts", "none.txt"], "There is no file none.txt"),
        (["--like", "PHOTO"], "carries no request of ssd1b"),
        (["a fox", "--xy", "stepps=1,2"], "Did you mean 'steps'"),
        (["a fox", "--xy", "steps=1,2", "--count", "2"], "varies one picture"),
        (["a fox", "--hires-upscaler", "esrgan"], "'latent', 'lanczos'"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_before_anything_is_loaded(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((64, 64), 60).convert("RGB").save("photo.png")
    Image.new("L", (32, 32), 255).save("small.png")
    Path("text.txt").write_text("a fox")
    names = {"PHOTO": "photo.png", "SMALL": "small.png", "TEXT": "text.txt"}
    given = [names.get(word, word) for word in words]
    assert main(["generate", *given, "--model", "no/such-model", "--out", "out"]) == 2
    told = capsys.readouterr()
    assert said in " ".join(told.err.replace("│", " ").split()) and "Traceback" not in told.err
    assert told.out == "" and not Path("out").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_on_a_hub_draws_online_offline_and_with_the_hub_gone(folder: Path, tmp_path: Path) -> None:
    """As a person runs it: three processes, HF_ENDPOINT and HF_HOME, nothing patched."""
    without = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in without}

    def process(name: str, **more: str) -> subprocess.CompletedProcess[str]:
        words = ["generate", "a fox", "--model", "segmind/tiny", "--seed", "7", *QUICK]
        return subprocess.run(
            [Path(sys.executable).with_name("ssd1b"), *words, "--out", str(tmp_path / name)],
            capture_output=True,
            text=True,
            env={**environment, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **more},
        )

    with serve(Hub({"segmind/tiny": folder})) as hub:
        never = process("never.png", HF_HUB_OFFLINE="1")
        online = process("online.png")
        offline = process("offline.png", HF_HUB_OFFLINE="1")
    gone = process("gone.png")
    assert never.returncode == 2 and "offline mode is on" in never.stderr
    assert [done.returncode for done in (online, offline, gone)] == [0, 0, 0], gone.stderr
    assert "Fetching segmind/tiny" in online.stderr
    assert "Using the cached copy" in gone.stderr
    made = {(tmp_path / name).read_bytes() for name in ("online.png", "offline.png", "gone.png")}
    assert len(made) == 1


def test_loras_are_worn_written_into_the_picture_and_asked_for_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = write_lora(tmp_path / "ink.safetensors", random_changes(tiny_unet("tiny-sdxl")))
    words = ["generate", "a fox", "--model", str(folder), "--seed", "7", *QUICK]
    assert main([*words, "--out", str(tmp_path / "bare.png")]) == 0
    assert main([*words, "--lora", f"{lora}:0.5", "--out", str(tmp_path / "worn.png")]) == 0
    told = capsys.readouterr().err
    assert "ink.safetensors made for sdxl:" in told and "belong to layers that the model lost" in told
    again = ["generate", "--like", str(tmp_path / "worn.png"), "--model", str(folder), "--device", "cpu"]
    assert main([*again, "--out", str(tmp_path / "again.png")]) == 2
    assert "Give the same file with --lora" in capsys.readouterr().err
    assert main([*again, "--lora", str(lora), "--out", str(tmp_path / "again.png")]) == 0
    bare, worn, repeated = ((tmp_path / f"{name}.png").read_bytes() for name in ("bare", "worn", "again"))
    assert worn == repeated != bare
    assert main(["show", str(tmp_path / "worn.png")]) == 0
    assert "ink:0.5 (SHA-256" in capsys.readouterr().out
    assert main([*words, "--lora", f"{lora}:0.5", "--engine", "openvino"]) == 2
