"""The report: one page, nothing loaded from elsewhere, every count of the manifest in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from tests.data import made

from ssd1b.data.places import Place
from ssd1b.data.report import REPORT, html, write_report


class Page(HTMLParser):
    """What a page would load, and the tags that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attributes if name in ("src", "href", "data")]
        if tag not in ("meta", "img", "rect", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag


def test_the_page_opens_offline_and_names_every_reason_and_bucket(tmp_path) -> None:
    path = made.folder(tmp_path / "in", 9)
    (path / "0009.png").write_bytes((path / "0001.png").read_bytes())
    (path / "a<b>.png").write_bytes(b"junk")
    (path / "0009.txt").write_text("x")
    found = made.ingested(path, tmp_path / "out")
    write_report(found, batch=2)
    text = (tmp_path / "out" / REPORT).read_text()
    page = Page()
    page.feed(text)
    assert page.open == [] and page.loads and all(each.startswith("data:image/jpeg") for each in page.loads)
    assert "<script" not in text and "a&lt;b&gt;.png" in text and "a<b>" not in text
    for said in ("exact duplicate: 1", "undecodable: 1", "the same file as 0001.png", found.digest):
        assert said in text
    assert re.search(r"<td>128x128</td><td>5</td><td>2</td><td>1</td>", text)
    assert re.search(r"<td>192x80</td><td>4</td><td>2</td><td>0</td>", text)


def test_the_same_manifest_gives_the_same_page(tmp_path) -> None:
    made.folder(tmp_path / "in", 5)
    pages = [html(made.ingested(tmp_path / "in", tmp_path / name), 4) for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_a_page_is_written_even_if_nothing_was_accepted(tmp_path) -> None:
    path = made.folder(tmp_path / "in", 2)
    for text in path.glob("*.txt"):
        text.unlink()
    found = made.ingested(path, tmp_path / "out")
    write_report(found)
    assert "0 pictures to train on" in Place(str(tmp_path / "out")).read(REPORT).decode()
