"""Files that are finished or not there."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest

from ssd1b.base.errors import DiskFullError, MissingFileError, OutputExistsError
from ssd1b.base.files import finished_folder, full_disk_named, sha256_file, write_atomic, write_manifest


def test_a_hash_is_that_of_the_whole_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_hashing_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no file"):
        sha256_file(tmp_path / "gone")


def test_an_atomic_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_atomic(path, "first")
    write_atomic(path, b"second")
    assert path.read_text() == "second"
    assert [one.name for one in path.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFullError, match="disk is full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_appears_only_when_it_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with finished_folder(out) as part:
        (part / "unet").mkdir()
        (part / "unet" / "a").write_text("1")
        assert not out.exists()
    assert (out / "unet" / "a").read_text() == "1"
    assert [one.name for one in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("fault", [ValueError("bad"), KeyboardInterrupt()])
def test_a_folder_that_fails_is_not_left_behind(tmp_path: Path, fault: BaseException) -> None:
    with pytest.raises(type(fault)), finished_folder(tmp_path / "model") as part:
        (part / "a").write_text("1")
        raise fault
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_replaced_only_on_request(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with finished_folder(out) as part:
        (part / "old").write_text("1")
    with pytest.raises(OutputExistsError, match="there already"), finished_folder(out):
        pass
    with finished_folder(out, replace=True) as part:
        (part / "new").write_text("2")
    assert [one.name for one in out.iterdir()] == ["new"]
    assert [one.name for one in tmp_path.iterdir()] == ["model"]


def test_an_old_folder_outlives_a_failed_replacement(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with finished_folder(out) as part:
        (part / "old").write_text("1")
    with pytest.raises(ValueError, match="bad"), finished_folder(out, replace=True):
        raise ValueError("bad")
    assert [one.name for one in out.iterdir()] == ["old"]


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "model.part").mkdir()
    (tmp_path / "model.part" / "half").write_text("1")
    with finished_folder(tmp_path / "model") as part:
        assert list(part.iterdir()) == []


def test_other_faults_of_the_system_keep_their_name(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), full_disk_named(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_a_manifest_says_how_to_make_it_again(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, command=["ssd1b", "carve"], inputs={"teacher": "ab" * 32}, plan="ssd-1b")
    record = json.loads(path.read_text())
    assert record["command"] == ["ssd1b", "carve"]
    assert record["inputs"] == {"teacher": "ab" * 32}
    assert record["plan"] == "ssd-1b"
    assert {"python", "ssd1b", "torch"} <= set(record["versions"])
    assert record["date"].endswith("+00:00")
