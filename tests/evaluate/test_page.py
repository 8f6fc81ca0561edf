"""The report's page: complete in itself, well formed, and honest about what it lacks."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from tests.evaluate.example import example

from ssd1b.evaluate.charts import round_scale
from ssd1b.evaluate.comparison import record
from ssd1b.evaluate.markdown import markdown, sheets
from ssd1b.evaluate.page import html

VOID = {"meta", "img", "br", "link"}


class Tree(HTMLParser):
    """Reads a page, keeps every tag with its attributes, and complains of one that is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def parsed(text: str) -> Tree:
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert not tree.open, f"never closed: {tree.open}"
    return tree


def images_of(tree: Tree) -> list[str]:
    return [attributes["src"] or "" for tag, attributes in tree.tags if tag == "img"]


def outside_of(text: str) -> list[str]:
    """Everything a page would load or run; pictures as data are inside it."""
    bare = re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+", "", text)
    return re.findall(r"<script|<link|<iframe|https?:|@import|url\(|\bsrc=\"(?!\")|\bon[a-z]+=", bare)


@pytest.fixture(scope="module")
def page() -> str:
    return html(example())


def test_the_page_is_well_formed_and_every_picture_has_words(page: str) -> None:
    tree = parsed(page)
    for tag, attributes in tree.tags:
        if tag == "img":
            assert attributes["alt"]


def test_nothing_is_loaded_from_outside_and_nothing_runs(page: str) -> None:
    assert not outside_of(page)
    assert all(source.startswith("data:image/") for source in images_of(parsed(page)))


def test_every_prompt_and_every_size_has_a_picture_of_every_model(page: str) -> None:
    webp = [source for source in images_of(parsed(page)) if source.startswith("data:image/webp")]
    assert len(webp) == 4 * (8 + 9)


def test_the_page_is_made_for_light_and_dark_and_for_small_screens(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "max-width: 560px" in page
    assert 'name="viewport"' in page


def test_figures_of_the_page_are_those_of_the_record(page: str) -> None:
    comparison = example()
    said = record(comparison)
    words = " ".join(parsed(page).words)
    assert said["headline"] in words
    for model in said["models"]:
        assert f"{100 * model['overall']:.1f}\u00a0%" in words
        assert f"{model['speedup']:.2f} ×" in words


def test_a_name_with_marks_in_it_stays_a_name() -> None:
    page = html(example(("<b>teacher</b>", 'a "student" & more')))
    tree = parsed(page)
    assert "<b>teacher</b>" in tree.words
    assert 'a "student" & more' in tree.words


def test_without_a_judge_there_are_no_scores_and_no_verdicts() -> None:
    comparison = example(("one", "two"))
    blind = dataclasses.replace(
        comparison,
        entries=tuple(dataclasses.replace(entry, scores=None) for entry in comparison.entries),
        shots=tuple(
            dataclasses.replace(
                shot, pictures=tuple(dataclasses.replace(one, passed=None) for one in shot.pictures)
            )
            for shot in comparison.shots
        ),
        ablation=None,
    )
    words = " ".join(parsed(html(blind)).words)
    assert "Does it do what it is told" not in words
    assert "✓ and ✗" not in words
    assert "What the teacher is worth" not in words
    assert "overall" not in record(blind)["models"][0]


def test_markdown_has_every_model_in_every_table() -> None:
    comparison = example()
    text = markdown(comparison)
    for entry in comparison.entries:
        assert text.count(f"| {entry.name} |") == 2
    assert set(sheets(comparison)) == {"pictures.png", "sizes.png"}


def test_a_scale_holds_all_values_in_whole_steps() -> None:
    assert round_scale([0.82, 0.87, 0.91]) == ((0.8, 0.95), 0.05)
    assert round_scale([0.1, 0.93]) == ((0.1, 1.0), 0.1)
    (low, high), _ = round_scale([0.5])
    assert low <= 0.5 <= high > low
