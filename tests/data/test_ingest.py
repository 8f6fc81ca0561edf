"""Ingestion: the manifest says what was found, whoever looked, and never changes."""

from __future__ import annotations

import errno
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.data import made

from ssd1b.base.errors import DamagedFileError, DataError, DiskFullError, MissingFileError, OutputExistsError
from ssd1b.data import manifest
from ssd1b.data.ingest import caption_hash
from ssd1b.data.places import Place
from ssd1b.data.runners import Pool


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Two sizes, one exact and one near duplicate, one of each kind that only ingestion can see."""
    path = made.folder(tmp_path_factory.mktemp("in") / "in", 12)
    (path / "0012.png").write_bytes((path / "0003.png").read_bytes())
    (path / "0013.jpg").write_bytes(made.encoded(made.picture(4, (256, 256)), "JPEG", quality=90))
    (path / "0014.png").write_bytes(made.encoded(made.picture(14, (40, 90))))
    (path / "0015.png").write_bytes(made.encoded(made.picture(15, (640, 80))))
    (path / "0016.png").write_bytes(made.encoded(made.picture(16)))
    for number in range(12, 16):
        (path / f"{number:04d}.txt").write_text("more")
    return path


def test_every_sample_has_a_row_and_every_bad_one_a_reason(source, tmp_path) -> None:
    found = made.ingested(source, tmp_path / "out")
    rows = made.rows(found)
    assert list(rows) == sorted(path.name for path in source.glob("*.[pj]*g"))
    assert (rows["0012.png"].reason, rows["0012.png"].same_as) == ("exact duplicate", "0003.png")
    assert (rows["0004.png"].reason, rows["0004.png"].same_as) == ("near duplicate", "0013.jpg")
    reasons = {row.key: row.reason for row in rows.values() if row.status == "quarantined"}
    assert reasons == {"0014.png": "too small", "0015.png": "extreme aspect", "0016.png": "no caption"}
    assert found.counts() == {
        "found": 17, "accepted": 12, "duplicates": 2, "quarantined": 3, "flags": {},
        "reasons": {"exact duplicate": 1, "extreme aspect": 1, "near duplicate": 1, "no caption": 1,
                    "too small": 1},
        "buckets": {"128x128": 6, "192x80": 6},
    }  # fmt: skip
    wide = rows["0001.png"]
    assert (wide.width, wide.height, wide.bucket, wide.left, wide.top) == (192, 80, "192x80", 0, 0)
    assert rows["0013.jpg"].resized_width == 128 and found.captions[caption_hash("thing 1")] == "thing 1"
    assert not list((tmp_path / "out").glob(".*"))


def test_near_duplicates_stay_if_asked(source, tmp_path) -> None:
    assert made.ingested(source, tmp_path / "out", near=False).counts()["duplicates"] == 1


def test_the_same_command_again_is_done_and_another_is_refused(source, tmp_path) -> None:
    first = made.ingested(source, tmp_path / "out")
    assert made.ingested(source, tmp_path / "out").digest == first.digest
    with pytest.raises(OutputExistsError, match="least_px = 64, not 32"):
        made.ingested(source, tmp_path / "out", least_px=32)


def test_a_source_that_changed_is_refused(tmp_path) -> None:
    made.folder(tmp_path / "in", 3)
    made.ingested(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "new.png").write_bytes(made.encoded(made.picture(77)))
    with pytest.raises(OutputExistsError, match="has changed"):
        made.ingested(tmp_path / "in", tmp_path / "out")


def test_a_folder_with_other_things_in_it_is_refused(source, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(OutputExistsError, match="not empty"):
        made.ingested(source, tmp_path / "out")


def test_workers_of_a_pool_make_the_same_bytes(tmp_path) -> None:
    made.archives(tmp_path / "in", 5, 6)
    made.ingested(tmp_path / "in", tmp_path / "one", "webdataset", layout="grit")
    made.ingested(tmp_path / "in", tmp_path / "two", "webdataset", Pool(2), layout="grit")
    assert made.contents(tmp_path / "one") == made.contents(tmp_path / "two")
    rows = made.rows(manifest.read(Place(str(tmp_path / "two"))))
    assert sum(row.reason == "truncated" for row in rows.values()) == 3
    assert {row.similarity for row in rows.values()} == {0.25}


def test_object_stores_hold_source_and_manifest(source, tmp_path) -> None:
    inside, out = (f"memory://{uuid.uuid4().hex}" for _ in range(2))
    for path in source.iterdir():
        Place(inside).write(path.name, path.read_bytes())
    there = made.ingested(inside, out)
    here = made.ingested(source, tmp_path / "out")
    assert there.digest == here.digest
    url = made.ingested(f"file://{source}", tmp_path / "url")
    assert url.digest == here.digest


def test_a_full_disk_loses_nothing_and_the_same_command_goes_on(source, tmp_path, monkeypatch) -> None:
    undisturbed = made.ingested(source, tmp_path / "one")
    real = Place.write

    def full(self: Place, name: str, data: bytes) -> None:
        if name == manifest.MANIFEST:
            raise DiskFullError("The disk is full")
        real(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "write", full)
        with pytest.raises(DiskFullError):
            made.ingested(source, tmp_path / "two")
    with pytest.raises(MissingFileError, match="the same command goes on"):
        manifest.read(Place(str(tmp_path / "two")))
    monkeypatch.setattr("ssd1b.data.ingest.row_of", None)  # nobody looks twice
    assert made.ingested(source, tmp_path / "two").digest == undisturbed.digest


def test_a_file_the_system_refuses_to_read_is_quarantined(tmp_path, monkeypatch) -> None:
    made.folder(tmp_path / "in", 2)
    real = Place.read

    def refusing(self: Place, name: str) -> bytes:
        if name == "0001.png":
            raise OSError(errno.EIO, "Input/output error")
        return real(self, name)

    monkeypatch.setattr(Place, "read", refusing)
    rows = made.rows(made.ingested(tmp_path / "in", tmp_path / "out"))
    assert (rows["0001.png"].reason, rows["0001.png"].detail) == ("unreadable", "Input/output error")


def test_a_damaged_manifest_is_named(source, tmp_path) -> None:
    made.ingested(source, tmp_path / "out")
    path = tmp_path / "out" / manifest.MANIFEST
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedFileError, match=r"manifest\.parquet"):
        manifest.read(Place(str(tmp_path / "out")))


def test_a_source_without_samples_is_said(tmp_path) -> None:
    made.archive(tmp_path / "in" / "x.tar", [])
    with pytest.raises(DataError, match="yields no samples"):
        made.ingested(tmp_path / "in", tmp_path / "out", "webdataset")


def test_the_order_of_columns_and_rows_is_that_of_the_schema(source, tmp_path) -> None:
    made.ingested(source, tmp_path / "out")
    stored = pq.read_schema(tmp_path / "out" / manifest.MANIFEST)
    assert stored.equals(manifest.SCHEMA)
