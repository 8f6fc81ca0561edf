"""`ssd1b bench` on the embedded miniature, and what it refuses before anything is made."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from ssd1b.cli import bench
from ssd1b.cli.main import main
from ssd1b.evaluate.speed import peers
from ssd1b.generate import openvino


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSD1B_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench, "probed", lambda threads: {"fp32": 100.0, "int8": 400.0})


def test_json_holds_every_part_and_the_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "mini-ssd", "--engine", "torch", "--size", "64x64", "--rounds", "1", "--threads", "1"]
    assert main([*words, "--json", "--out", str(tmp_path / "out")]) == 0
    said = json.loads(capsys.readouterr().out)
    (case,) = said["cases"]
    assert set(case["parts"]) == {"text", "unet", "decode"}
    assert case["parts"]["unet"]["cold"] > case["parts"]["unet"]["median_s"] > 0
    assert said["machine"]["threads"] == 1
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["cases"] == said["cases"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bench.json", "step.svg", "picture.svg"}


def test_an_estimate_loads_nothing_and_says_how_sure_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ssd-1b", "sdxl", "--estimate", "--engine", "torch", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each["model"] for each in said["estimates"]] == ["ssd-1b", "sdxl"]
    small, large = said["estimates"]
    assert 0 < small["low_s"] < small["high_s"]
    assert large["flops"] > 1.4 * small["flops"] and large["memory_bytes"] > small["memory_bytes"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--engine", "openvino-int4"], "openvino-int8"),
        (["sdd-1b"], "ssd-1b"),
        (["--size", "500x512"], "multiples of 8"),
        (["--size", "big"], "not a size"),
        (["--rounds", "0"], "rounds"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_paragraph(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert said in capsys.readouterr().err


def test_too_little_memory_is_said_before_gigabytes_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Little:
        available = 4 * 10**9

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Little)
    assert main(["bench", "sdxl", "--engine", "torch"]) == 2
    assert "4 GB are free" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "cache" / "bench").exists()


def test_a_peer_that_is_not_installed_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda package: None)
    found = bench._engines(["torch"], with_peers=True)
    assert found == ["torch", "diffusers", "diffusers-compile"]
    assert "stable-diffusion-cpp-python is not installed" in capsys.readouterr().err.replace("\n", " ")


def test_an_engine_that_is_not_installed_is_refused_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda package: None)
    assert main(["bench", "mini-ssd", "--engine", "openvino-int8"]) == 2
    assert "pip install 'ssd1b[openvino]'" in capsys.readouterr().err.replace("\n", " ")
