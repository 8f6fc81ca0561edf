"""The tokenizers that a single file lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from ssd1b.base.errors import LayoutError, MissingFileError
from ssd1b.formats.diffusers_folder import open_folder
from ssd1b.formats.pipeline import write_part
from ssd1b.formats.single_file import open_single_file
from ssd1b.formats.tokenizer_files import CACHED, with_tokenizers


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def clip(sdxl_folder: Path, tmp_path: Path) -> Path:
    """One CLIP tokenizer as the hub has it: vocab.json and merges.txt."""
    folder = tmp_path / "clip"
    folder.mkdir()
    model = json.loads((sdxl_folder / "tokenizer/tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    return folder


def test_a_folder_keeps_its_own_tokenizers(sdxl_folder: Path, tmp_path: Path) -> None:
    pipeline = open_folder(sdxl_folder)
    assert with_tokenizers(pipeline, tmp_path) is pipeline


def test_the_tokenizers_of_a_pipeline_folder_are_taken_as_they_are(
    single_file: Path, sdxl_folder: Path
) -> None:
    parts = {part.name: part for part in with_tokenizers(open_single_file(single_file), sdxl_folder).parts}
    for name in ("tokenizer", "tokenizer_2"):
        assert parts[name].files["tokenizer.json"] == sdxl_folder / name / "tokenizer.json"


def test_one_clip_tokenizer_makes_both_with_their_own_padding(
    single_file: Path, clip: Path, tmp_path: Path
) -> None:
    parts = {part.name: part for part in with_tokenizers(open_single_file(single_file), clip).parts}
    loaded = {}
    for name in ("tokenizer", "tokenizer_2"):
        write_part(parts[name], tmp_path / name)
        loaded[name] = CLIPTokenizer.from_pretrained(tmp_path / name)
        assert loaded[name].model_max_length == 24
    first, second = loaded["tokenizer"], loaded["tokenizer_2"]
    assert (first.pad_token, second.pad_token) == ("<|endoftext|>", "!")
    texts = [t(["fox"], padding="max_length", max_length=24).input_ids[0] for t in (first, second)]
    assert texts[0][:5] == texts[1][:5]
    assert (texts[0][-1], texts[1][-1]) == (first.eos_token_id, second.convert_tokens_to_ids("!"))


@pytest.mark.parametrize("repository", [CACHED[0], CACHED[-1]])
def test_the_hub_cache_is_searched(
    single_file: Path, sdxl_folder: Path, clip: Path, cache: Path, repository: str
) -> None:
    snapshot = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / "0123"
    if repository == CACHED[-1]:
        shutil.copytree(clip, snapshot)
    else:
        for name in ("tokenizer", "tokenizer_2"):
            shutil.copytree(sdxl_folder / name, snapshot / name)
    names = [part.name for part in with_tokenizers(open_single_file(single_file), None).parts]
    assert names[-2:] == ["tokenizer", "tokenizer_2"]


def test_without_any_tokenizer_the_message_says_how_to_give_one(single_file: Path) -> None:
    with pytest.raises(MissingFileError, match=r"--tokenizers DIR"):
        with_tokenizers(open_single_file(single_file), None)


def test_a_folder_without_a_tokenizer_is_refused(single_file: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="holds no CLIP tokenizer"):
        with_tokenizers(open_single_file(single_file), tmp_path)


def test_a_tokenizer_with_more_words_than_the_encoder_knows_is_refused(single_file: Path, clip: Path) -> None:
    vocabulary = json.loads((clip / "vocab.json").read_text())
    more = {f"word{index}</w>": len(vocabulary) + index for index in range(9)}
    (clip / "vocab.json").write_text(json.dumps({**vocabulary, **more}))
    with pytest.raises(LayoutError, match=r"523 words.*know 514"):
        with_tokenizers(open_single_file(single_file), clip)
