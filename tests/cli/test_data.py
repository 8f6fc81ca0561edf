"""`ssd1b data` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.data import made
from tests.tiny import tiny_pipeline

from ssd1b.cli.distill import batch_source
from ssd1b.cli.main import main
from ssd1b.distill.recipe import Recipe, Stage


@pytest.fixture
def scenes(tmp_path) -> Path:
    path = made.folder(tmp_path / "in", 8)
    (path / "0000.png").write_bytes(b"junk")
    (path / "0003.png").write_bytes((path / "0001.png").read_bytes())
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main(["data", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_goes_all_the_way_to_a_batch(scenes, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    ready, model = "ready", tiny_pipeline(tmp_path / "model")
    counts = run(capsys, "ingest", "in", "--out", ready, "--side", "128", "--workers", "1")
    assert (counts["accepted"], counts["duplicates"], counts["quarantined"]) == (6, 1, 1)
    assert counts["reasons"] == {"exact duplicate": 1, "undecodable": 1}
    assert Path(ready, "report.html").is_file()
    words = ("cache", ready, "--model", str(model), "--device", "cpu", "--workers", "1", "--text", "--flips")
    cached = run(capsys, *words)
    assert (cached["accepted"], cached["encoded"], len(cached["folders"])) == (6, 6, 2)
    assert run(capsys, "check", ready)["shards"] == 2 * 2 + 1
    listed = run(capsys, "show", ready, "--status", "quarantined")
    assert [row["key"] for row in listed["rows"]] == ["0000.png"]
    assert run(capsys, "report", ready, "--batch", "4") == counts
    stage = Stage.model_validate(
        {"name": "one", "plan": "mini-ssd", "start": "scratch", "steps": 1, "batch": 2,
         "data": {"path": ready, "flips": True}}
    )  # fmt: skip
    recipe = Recipe(name="x", source="images", parts=str(model), stages=(stage,))
    assert batch_source(recipe, stage).batch_at(0).latent_BCHW.shape[0] == 2


def test_people_are_told_in_tables_and_sentences(scenes, tmp_path, capsys) -> None:
    ready = str(tmp_path / "ready")
    assert main(["data", "ingest", str(scenes), "--out", ready, "--side", "128", "--workers", "1"]) == 0
    shown = capsys.readouterr()
    assert "6 of 8 accepted" in shown.out and "undecodable" in shown.out and "report.html" in shown.err
    assert main(["data", "show", ready, "--limit", "2"]) == 0
    assert "8 samples, the first 2" in capsys.readouterr().out
    assert main(["data", "check", ready]) == 0
    assert "is whole: 8 samples, 0 shards" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ingest", "nowhere", "--out", "x"], "There is nothing at"),
        (["ingest", "empty", "--out", "x"], "holds no pictures"),
        (["ingest", "in", "--out", "x", "--layout", "gritt"], "Did you mean 'grit'"),
        (["ingest", "in", "--out", "x", "--buckets", "ssd1b"], "Did you mean 'ssd-1b'"),
        (["ingest", "in", "--out", "x", "--side", "100"], "no multiples of 8"),
        (["ingest", "in", "--out", "x", "--captions", "a.csv"], "There is no caption file a.csv"),
        (["ingest", "in", "--out", "x", "--source", "floder"], "Did you mean 'folder'"),
        (["ingest", "in", "--out", "x", "--workers", "0"], "at least one"),
        (["ingest", "in", "--out", "empty/../in"], "not empty"),
        (["cache", "empty", "--model", "mini-parts"], "There is no manifest.parquet"),
        (["cache", "empty", "--model", "mini-parts", "--dtype", "fp8"], "No number format is called 'fp8'"),
        (["show", "nowhere"], "There is no manifest.parquet"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_paragraph(
    scenes, tmp_path, capsys, monkeypatch, words, said
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["data", *words]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert said in shown and "Traceback" not in shown


def test_a_missing_extra_is_named_with_how_to_get_it(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("ssd1b.data.find_spec", lambda name: None)
    assert main(["data", "show", str(tmp_path)]) == 2
    assert "pip install 'ssd1b[data]'" in " ".join(capsys.readouterr().err.split())
