"""A model by any of its names, and what is said when there is none."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
from tests.tiny import tiny_pipeline

from ssd1b.base.errors import (
    DamagedFileError,
    HubError,
    LayoutError,
    MissingFileError,
    RequestError,
    UserError,
)
from ssd1b.formats import hub
from ssd1b.formats.diffusers_folder import open_folder
from ssd1b.formats.safetensors_io import write_file
from ssd1b.formats.single_file import to_single_file
from ssd1b.generate.asked import Asked, completed, remarks
from ssd1b.generate.load import load
from ssd1b.generate.pipeline import sample
from ssd1b.mini import embedded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


def test_a_folder_is_a_model(folder: Path) -> None:
    model = load(str(folder), device="cpu")
    assert model.folder == folder
    assert model.miniature
    assert (model.defaults.width, model.defaults.scheduler) == (128, "euler")


def test_an_embedded_name_is_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "folder", {"mini-ssd": folder}.__getitem__)
    assert load(device="cpu").name == "mini-ssd"


def test_a_single_file_draws_the_same_picture_as_its_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSD1B_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(embedded, "PARTS", "parts", raising=False)
    monkeypatch.setattr(embedded, "folder", {"parts": folder}.__getitem__)
    single = to_single_file(open_folder(folder))
    path = tmp_path / "model.safetensors"
    write_file(path, single.tensors, metadata=single.metadata)
    notes: list[str] = []
    listener = hub.Listener(notes.append)
    ours, theirs, again = (
        sample(model, completed(Asked("a fox", size="64x64", steps=2, seed=3), model))[0]
        for model in (load(str(source), device="cpu", listener=listener) for source in (path, folder, path))
    )
    assert ours.tobytes() == theirs.tobytes() == again.tobytes()
    assert len([note for note in notes if note.startswith("Unpacking")]) == 1


def test_a_single_file_without_any_tokenizers_says_how_to_get_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Path:
        raise MissingFileError(name)

    monkeypatch.setenv("SSD1B_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(embedded, "folder", missing)
    single = to_single_file(open_folder(folder))
    write_file(tmp_path / "model.safetensors", single.tensors, metadata=single.metadata)
    with pytest.raises(MissingFileError, match="single files carry no tokenizers"):
        load(str(tmp_path / "model.safetensors"), device="cpu")


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("mini-sdd", RequestError, "Did you mean 'mini-ssd'?"),
        ("ssd-1b", RequestError, "Did you mean 'segmind/SSD-1B'?"),
        ("qwertyuiop", RequestError, "No model is called 'qwertyuiop'. A model is"),
        ("./nowhere", MissingFileError, "neither a folder nor a file"),
        ("nowhere.safetensors", MissingFileError, "neither a folder nor a file"),
        ("/a/b/c", MissingFileError, "neither a folder nor a file"),
        ("", RequestError, "No model is called ''"),
        ("owner/model", HubError, "offline mode is on"),
    ],
)
def test_a_name_that_stands_for_nothing_is_answered_with_what_there_is(
    name: str, kind: type[UserError], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as error:
        load(name, device="cpu")
    assert said in str(error.value)


def test_a_damaged_folder_is_named_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = tiny_pipeline(tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DamagedFileError, match="diffusion_pytorch_model"):
        load(str(folder), device="cpu")
    weights.unlink()
    with pytest.raises(MissingFileError):
        load(str(folder), device="cpu")


def test_another_kind_of_autoencoder_is_refused(tmp_path: Path) -> None:
    folder = tiny_pipeline(tmp_path / "model")
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "AutoencoderTiny"}))
    with pytest.raises(LayoutError, match="an AutoencoderKL is needed"):
        load(str(folder), device="cpu")


def test_a_wish_is_completed_by_the_model(folder: Path) -> None:
    model = load(str(folder), device="cpu")
    several = completed(Asked("a fox", seed=5), model, 3)
    assert [request.seed for request in several] == [5, 6, 7]
    assert (several[0].width, several[0].steps, several[0].guidance) == (128, 20, 3.0)
    assert completed(Asked("a fox"), model)[0].seed != completed(Asked("a fox"), model)[0].seed
    assert completed(Asked("a fox", aspect="12:5"), model)[0].width == 192
    with pytest.raises(RequestError, match="one of them"):
        completed(Asked("a fox", size="64x64", aspect="1:1"), model)
    with pytest.raises(RequestError, match="do not fit"):
        completed(Asked("a fox", seed=2**63 - 1), model, 2)


def test_what_is_worth_knowing_beforehand_is_said(folder: Path) -> None:
    model = load(str(folder), device="cpu")
    fine = completed(Asked("a fox"), model)[0]
    odd = completed(Asked("a very long prompt about a fox", "and a long negative one", "64x64"), model)[0]
    assert remarks(fine, model) == []
    said = " ".join(remarks(odd, model))
    assert "the nearest is 128x128 (--aspect 1:1)" in said
    assert "The prompt is read in 2 parts of up to 22 tokens." in said
    plain = completed(Asked("a very long prompt about a fox", more={"syntax": "plain"}), model)[0]
    assert "prompt is too long for this model; it does not see the end" in " ".join(remarks(plain, model))
