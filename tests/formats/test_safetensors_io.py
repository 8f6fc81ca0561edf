"""The reader and writer against the reference implementation, and against damage."""

from __future__ import annotations

import errno
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ssd1b.base.errors import DamagedFileError, LayoutError, MissingFileError
from ssd1b.formats import safetensors_io
from ssd1b.formats.safetensors_io import (
    copy_file,
    read_bytes,
    read_file,
    read_sharded,
    write_file,
    written_bytes,
)
from ssd1b.formats.views import joined


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b.weight": torch.randn(5, 3, generator=generator),
        "a.weight": torch.randn(4, 2, 3, 3, generator=generator).half(),
        "a.bias": torch.randn(7, generator=generator).bfloat16(),
        "a.ids": torch.arange(5),
        "a.flag": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }


@pytest.fixture
def path(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, tmp_path / "given.safetensors", metadata={"format": "pt", "note": "größer"})
    return tmp_path / "given.safetensors"


def test_a_file_written_back_is_the_same_file(path: Path, tmp_path: Path) -> None:
    file = read_file(path)
    write_file(tmp_path / "again", file.tensors, metadata=file.metadata)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_copied_file_is_the_same_file_and_all_its_bytes_are_reported(path: Path, tmp_path: Path) -> None:
    heard: list[int] = []
    copy_file(path, tmp_path / "again", on_bytes=heard.append)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert sum(heard) == path.stat().st_size


@pytest.mark.parametrize("buffer_bytes", [8, 24, 1 << 20])
@pytest.mark.parametrize(
    ("dtype", "torch_dtype"), [("F16", torch.half), ("BF16", torch.bfloat16), ("F32", torch.float)]
)
def test_a_cast_gives_what_torch_gives_whatever_the_buffer(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    torch_dtype: torch.dtype,
    buffer_bytes: int,
) -> None:
    monkeypatch.setattr(safetensors_io, "BUFFER_BYTES", buffer_bytes)
    file = read_file(path)
    write_file(tmp_path / "cast", file.tensors, dtype=dtype)
    for name, tensor in load_file(tmp_path / "cast").items():
        before = load_file(path)[name]
        wanted = before.to(torch_dtype) if before.is_floating_point() else before
        assert torch.equal(tensor, wanted), name
    assert read_file(tmp_path / "cast").n_bytes == written_bytes(file.tensors, dtype)


def test_progress_adds_up_to_what_is_written(path: Path, tmp_path: Path) -> None:
    heard: list[int] = []
    file = read_file(path)
    write_file(tmp_path / "out", file.tensors, dtype="F32", on_bytes=heard.append)
    assert sum(heard) == written_bytes(file.tensors, "F32")


def test_rows_join_back_to_the_matrix_and_a_flipped_matrix_is_the_transpose(
    path: Path, tmp_path: Path
) -> None:
    view = read_file(path).tensors["b.weight"]
    parts = {
        "joined": joined([view.rows(0, 2), view.rows(2, 5)]),
        "middle": view.rows(1, 3),
        "flipped": view.flipped(),
    }
    parts["flat"] = view.reshaped(15)
    write_file(tmp_path / "out", parts)
    matrix, out = load_file(path)["b.weight"], load_file(tmp_path / "out")
    assert torch.equal(out["joined"], matrix)
    assert torch.equal(out["middle"], matrix[1:3])
    assert torch.equal(out["flipped"], matrix.T)
    assert torch.equal(out["flat"], matrix.flatten())
    assert read_bytes(view.flipped()) == matrix.T.contiguous().numpy().tobytes()


def test_a_number_that_float16_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"fine": torch.ones(2), "loud": torch.tensor([1.0, 70000.0])}, tmp_path / "in")
    with pytest.raises(LayoutError, match=r"'loud'.*70000.*bf16"):
        write_file(tmp_path / "out", read_file(tmp_path / "in").tensors, dtype="F16")


def test_infinity_and_nan_survive_a_cast(tmp_path: Path) -> None:
    save_file({"odd": torch.tensor([float("inf"), float("nan"), -0.0])}, tmp_path / "in")
    for dtype in ("F16", "BF16"):
        write_file(tmp_path / "out", read_file(tmp_path / "in").tensors, dtype=dtype)
        odd = load_file(tmp_path / "out")["odd"].float()
        assert odd[0] == float("inf") and odd[1].isnan() and np.signbit(odd[2].item())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused_as_cut_or_damaged(path: Path, tmp_path: Path, share: float) -> None:
    data = path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DamagedFileError, match=r"cut short|empty|not a safetensors"):
        read_file(cut)


def test_bytes_after_the_last_tensor_are_damage(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(DamagedFileError, match="4 bytes too many"):
        read_file(path)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}, "unknown way"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "does not fit"),
        ({"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}, "does not fit"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "does not begin"),
        ({"dtype": "F32", "shape": [1]}, "unknown way"),
        ("nothing", "unknown way"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, entry: object, words: str) -> None:
    header = json.dumps({"x": entry}).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(DamagedFileError, match=words):
        read_file(path)


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    one = '"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = f"{{{one},{one}}}".encode()
    path = tmp_path / "twice.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(DamagedFileError, match="twice"):
        read_file(path)


def test_pickles_and_other_strangers_are_told_by_content(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"  # the suffix lies
    torch.save({"x": torch.ones(1)}, path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(DamagedFileError, match="PyTorch pickle"):
        read_file(path)
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps({"x": list(range(50))}, protocol=protocol))
        with pytest.raises(DamagedFileError, match="Python pickle"):
            read_file(path)
    strangers = {
        b"": "empty",
        b"GGUF" + b"\0" * 60: "GGUF",
        b"<!DOCTYPE html><html>": "web page",
        b"hello " * 9: "not a",
    }
    strangers[b"version https://git-lfs.github.com/spec/v1\noid sha256:00"] = "Git LFS pointer"
    for content, words in strangers.items():
        path.write_bytes(content)
        with pytest.raises(DamagedFileError, match=words):
            read_file(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.safetensors"):
        read_file(tmp_path / "nowhere.safetensors")


def test_shards_read_as_one_file(sharded_half_folder: Path) -> None:
    index = next(sharded_half_folder.glob("unet/*.index.fp16.json"))
    file = read_sharded(index)
    assert len(file.paths) > 2
    for path in file.paths:
        with safe_open(path, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118 (no mapping)
                tensor = shard.get_tensor(name)
                assert read_bytes(file.tensors[name]) == tensor.numpy().tobytes()


def test_an_index_that_names_a_shard_elsewhere_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../secret.safetensors"}}))
    with pytest.raises(DamagedFileError, match="another folder"):
        read_sharded(index)


def test_an_index_that_promises_more_than_the_shards_hold_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "one.safetensors", "y": "one.safetensors"}}))
    with pytest.raises(DamagedFileError, match=r"1 tensors that no shard holds, e.g. 'y'"):
        read_sharded(index)


def test_an_error_of_the_disk_passes_through(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors_io, "write_all", full)
    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "out", read_file(path).tensors)


def test_a_source_that_shrinks_while_it_is_read_is_noticed(path: Path, tmp_path: Path) -> None:
    file = read_file(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DamagedFileError, match="became shorter"):
        write_file(tmp_path / "out", file.tensors)
