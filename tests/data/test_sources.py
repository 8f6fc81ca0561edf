"""Folders, archives, tables and datasets: the same pictures, whichever way they come."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data import made

from ssd1b.base.errors import DamagedFileError, DataError
from ssd1b.data.places import Place
from ssd1b.data.sources import Spec, guess, open_source


def found(spec: Spec) -> dict[str, tuple]:
    """Every sample by key: reason of trouble or "", caption fields, and whether it reads the same again."""
    source = open_source(spec)
    seen = {}
    for piece in source.pieces():
        for each in source.samples(piece):
            if each.data and not source.streams:
                assert source.read(each.locator) == each.data
            seen[each.key] = (each.trouble[0] if each.trouble else "", dict(each.fields), each.data)
    return seen


def write_table(
    path: Path, n: int = 5, image: str = "image", caption: str = "text", struct: bool = True
) -> Path:
    cells = [made.encoded(made.picture(number)) for number in range(n)]
    pictures = [{"bytes": cell, "path": None} for cell in cells] if struct else cells
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({image: pictures, caption: [f"thing {k}" for k in range(n)]}), path, row_group_size=2
    )
    return path


def test_a_folder_takes_captions_from_text_files(tmp_path) -> None:
    made.folder(tmp_path / "in" / "deep", 3)
    (tmp_path / "in" / "deep" / "0001.txt").unlink()
    (tmp_path / "in" / "deep" / "0002.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "in" / "notes.md").write_text("no picture")
    seen = found(Spec("folder", str(tmp_path / "in")))
    assert list(seen) == ["deep/0000.png", "deep/0001.png", "deep/0002.png"]
    assert seen["deep/0000.png"][1] == {"txt": "thing 0"} and seen["deep/0001.png"][1] == {}
    assert seen["deep/0002.png"][0] == "broken caption"


@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.csv", "words.csv"])
def test_a_folder_takes_captions_from_a_file_of_them(tmp_path, name) -> None:
    made.folder(tmp_path, 2)
    rows = [("0000.png", "a fox, red", 5.5), ("gone.png", "nothing", 1.0)]
    if name.endswith(".jsonl"):
        lines = [json.dumps(dict(zip(("file_name", "text", "aesthetic"), row, strict=True))) for row in rows]
    else:
        lines = ["file_name,text,aesthetic", *(f'{file},"{text}",{score}' for file, text, score in rows)]
    (tmp_path / name).write_text("\n".join(lines))
    seen = found(Spec("folder", str(tmp_path), captions=name if name == "words.csv" else ""))
    assert seen["0000.png"][:2] == ("", {"file_name": "0000.png", "text": "a fox, red", "aesthetic": 5.5})
    assert seen["0001.png"][:2] == ("", {}) and seen["gone.png"][0] == "missing"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metadata.jsonl", b'{"file_name": "a.png", "text": "x"}\n{"file', "line 2 is not JSON"),
        ("metadata.jsonl", b"[1]", "line 1 is not a JSON object"),
        (
            "metadata.jsonl",
            b'{"file_name": "a.png", "words": "x"}',
            "no column of captions.*file_name, words",
        ),
        ("metadata.jsonl", b'{"name": "a.png", "text": "x"}', "no column of file names"),
        ("metadata.jsonl", b'{"file_name": 3, "text": "x"}', "not a file name"),
        ("metadata.jsonl", b'{"file_name":"a","text":"x"}\n{"file_name":"a","text":"y"}', "a line already"),
        ("metadata.csv", b"file_name,text\na.png,one, two\n", "line 2 has 3 cells; its head has 2"),
        ("metadata.csv", b"file_name,text\na.png\n", "line 2 has 1 cells"),
        ("metadata.csv", b'file_name,text\na.png,"x\n', "not CSV"),
        ("metadata.csv", b"file_name,text\n", "holds no lines"),
        ("metadata.csv", "file_name,text\na.png,süß".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_broken_caption_file_is_named_with_its_line(tmp_path, name, content, said) -> None:
    made.folder(tmp_path, 1)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        open_source(Spec("folder", str(tmp_path))).pieces()


def test_a_wrong_column_is_named_with_the_nearest(tmp_path) -> None:
    made.folder(tmp_path / "a", 1)
    (tmp_path / "a" / "metadata.jsonl").write_text('{"file_name": "0000.png", "words": "x"}')
    with pytest.raises(DataError, match="Did you mean 'words'"):
        open_source(Spec("folder", str(tmp_path / "a"), caption_column="wrods")).pieces()
    write_table(tmp_path / "b" / "x.parquet")
    with pytest.raises(DataError, match=r"no column 'imgae'\. Did you mean 'image'"):
        open_source(Spec("parquet", str(tmp_path / "b"), image_column="imgae")).pieces()
    with pytest.raises(DataError, match="not the bytes of pictures"):
        open_source(Spec("parquet", str(tmp_path / "b"), image_column="text")).pieces()
    with pytest.raises(DataError, match="There is no caption file"):
        open_source(Spec("folder", str(tmp_path / "a"), captions="nothing.csv")).pieces()


@pytest.mark.parametrize("kind", ["folder", "webdataset", "parquet"])
def test_an_empty_folder_is_said(tmp_path, kind) -> None:
    with pytest.raises(DataError, match="There are no"):
        open_source(Spec(kind, str(tmp_path))).pieces()


def test_the_kind_of_a_source_is_seen_from_its_files(tmp_path) -> None:
    made.folder(tmp_path / "a", 1)
    made.archive(tmp_path / "b" / "0.tar", [("x", {"png": b"1"})])
    write_table(tmp_path / "c" / "x.parquet", 1)
    assert [guess(str(tmp_path / name)) for name in "abc"] == ["folder", "webdataset", "parquet"]
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        guess(str(tmp_path / "d"))
    with pytest.raises(DataError, match="There is nothing at"):
        guess(str(tmp_path / "e"))
    with pytest.raises(DataError, match="Did you mean 'folder'"):
        open_source(Spec("foldr", str(tmp_path)))


def test_an_archive_groups_files_by_name(tmp_path) -> None:
    image = made.encoded(made.picture(1))
    samples = [
        ("a/0", {"png": image, "json": b'{"caption": "one"}', "txt": b"uno"}),
        ("a/1.5", {"seg.png": b"no", "png": image}),
        ("a/2", {"json": b"{", "jpg": image}),
        ("a/3", {"json": b"{}"}),
    ]
    made.archive(tmp_path / "x.tar", samples)
    seen = found(Spec("webdataset", str(tmp_path)))
    assert seen["x.tar:a/0"] == ("", {"caption": "one", "txt": "uno"}, image)
    assert seen["x.tar:a/2"][0] == "broken caption" and seen["x.tar:a/3"][0] == "missing"
    assert found(Spec("webdataset", str(tmp_path / "x.tar"))).keys() == seen.keys()


@pytest.mark.parametrize(("cut", "whole"), [(300, 0), (900, 0), (1500, 1), (2600, 1), (5200, 2)])
def test_an_archive_that_is_cut_short_yields_what_is_whole_and_says_so(tmp_path, cut, whole) -> None:
    path = made.archive(tmp_path / "x.tar", [(f"{n}", {"png": b"x" * 600, "txt": b"t"}) for n in range(2)])
    path.write_bytes(path.read_bytes()[:cut])
    seen = found(Spec("webdataset", str(tmp_path)))
    assert list(seen.values())[-1][0] == "truncated"
    assert sum(not trouble for trouble, *_ in seen.values()) == whole


@pytest.mark.parametrize("struct", [True, False])
def test_a_table_yields_its_rows(tmp_path, struct) -> None:
    write_table(tmp_path / "x.parquet", image="jpg", caption="caption", struct=struct)
    seen = found(Spec("parquet", str(tmp_path)))
    assert len(seen) == 5 and seen["x.parquet:1:0"][1] == {"caption": "thing 2"}


def test_a_damaged_table_is_named(tmp_path) -> None:
    path = write_table(tmp_path / "x.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedFileError, match=r"x\.parquet"):
        open_source(Spec("parquet", str(tmp_path))).pieces()


@pytest.mark.filterwarnings("ignore")
def test_a_dataset_is_streamed_undecoded_and_its_pictures_are_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    path = write_table(tmp_path / "in" / "x.parquet")
    table = pq.read_table(path).to_pylist()
    table[3]["image"]["bytes"] = b"no picture"
    pq.write_table(pa.Table.from_pylist(table), path, row_group_size=2)
    spec = f"parquet:{tmp_path / 'in'}"
    manifest = made.ingested(spec, tmp_path / "out", "hub")
    rows = made.rows(manifest)
    assert [row.status for row in rows.values()] == ["accepted"] * 3 + ["quarantined", "accepted"]
    assert [row.reason for row in rows.values()][3] == "undecodable"
    from ssd1b.data.sources.archives import read_member

    place = Place(str(tmp_path / "out"))
    kept = [read_member(place, row.locator) for row in rows.values()]
    assert kept == [row["image"]["bytes"] for row in table]
