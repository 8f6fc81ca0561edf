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
from tests.tiny import tiny_pipeline

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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_on_a_hub_draws_online_offline_and_with_the_hub_gone(folder: Path, tmp_path: Path) -> None:
    """As a person runs it: three processes, HF_ENDPOINT and HF_HOME, nothing patched."""
    without = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in without}

    def run(name: str, **more: str) -> subprocess.CompletedProcess[str]:
        words = ["generate", "a fox", "--model", "segmind/tiny", "--seed", "7", *QUICK]
        return subprocess.run(
            [Path(sys.executable).with_name("ssd1b"), *words, "--out", str(tmp_path / name)],
            capture_output=True,
            text=True,
            env={**environment, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **more},
        )

    with serve(Hub({"segmind/tiny": folder})) as hub:
        never = run("never.png", HF_HUB_OFFLINE="1")
        online = run("online.png")
        offline = run("offline.png", HF_HUB_OFFLINE="1")
    gone = run("gone.png")
    assert never.returncode == 2 and "offline mode is on" in never.stderr
    assert [done.returncode for done in (online, offline, gone)] == [0, 0, 0], gone.stderr
    assert "Fetching segmind/tiny" in online.stderr
    assert "Using the cached copy" in gone.stderr
    made = {(tmp_path / name).read_bytes() for name in ("online.png", "offline.png", "gone.png")}
    assert len(made) == 1
