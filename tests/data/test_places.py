"""Folders on a disk and in an object store behave alike."""

from __future__ import annotations

import errno
import uuid
from pathlib import Path

import pytest

from ssd1b.base.errors import DiskFullError, MissingFileError
from ssd1b.data.places import Place


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path) -> Place:
    return Place(str(tmp_path / "in")) if request.param == "disk" else Place(f"memory://{uuid.uuid4().hex}")


def test_what_is_written_is_there_under_its_name(place, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SSD1B_CACHE", str(tmp_path / "cache"))
    place.write("b/two.bin", b"0123456789")
    place.write("a.bin", b"x")
    place.write(".hidden/c", b"y")
    assert list(place.files()) == [("a.bin", 1), ("b/two.bin", 10)]
    assert list(place.files("b")) == [("b/two.bin", 10)]
    assert place.read("b/two.bin") == b"0123456789" and place.read_part("b/two.bin", 3, 4) == b"3456"
    assert place.exists("b/two.bin") and not place.exists("c") and place.size("b/two.bin") == 10
    assert place.fetched("b/two.bin").read_bytes() == b"0123456789"
    place.write("a.bin", b"new")
    assert place.read("a.bin") == b"new"
    place.remove(".hidden")
    place.remove("b")
    place.remove("b")
    assert list(place.files()) == [("a.bin", 3)]


def test_a_finished_file_is_moved_in_whole(place, tmp_path) -> None:
    source = tmp_path / "made"
    source.write_bytes(b"abc")
    place.put(source, "x/y.bin")
    assert place.read("x/y.bin") == b"abc" and not source.exists()


def test_a_file_that_is_not_there_is_named(place) -> None:
    place.write("a", b"")
    with pytest.raises(MissingFileError, match=r"nothing\.bin"):
        place.read("nothing.bin")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    place = Place(str(tmp_path))
    place.write("a", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFullError, match="disk is full"):
        place.write("a", b"new")
    assert [path.name for path in Path(tmp_path).iterdir()] == ["a"] and place.read("a") == b"old"
