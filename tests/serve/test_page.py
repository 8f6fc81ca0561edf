"""The page in a real browser: a person makes, stops, restores and compares pictures. Needs Chromium."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from tests.serve.conftest import Serving, serving

from ssd1b.serve.settings import Settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None, "these tests need Chromium (Debian: apt-get install chromium)"
    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Serving) -> Iterator[Page]:
    """A fresh page of the server; whatever the console complains of fails the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(30_000)
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if is_complaint(said) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(server.url)
    expect(page.get_by_label("Model", exact=True)).to_have_value("tiny")
    yield page
    page.close()
    assert complaints == []


def is_complaint(said: ConsoleMessage) -> bool:
    """An error in the console; that the browser notes a 400, which the page shows, is none."""
    return said.type == "error" and "status of 400" not in said.text


def ask(page: Page, prompt: str, steps: int = 3, seed: str = "") -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Steps", exact=True).fill(str(steps))
    page.get_by_label("Seed", exact=True).fill(seed)


def make(page: Page, prompt: str, seed: str = "", steps: int = 3) -> None:
    ask(page, prompt, steps, seed)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("region", name="Picture").get_by_role("img", name=prompt)).to_be_visible()


def test_a_picture_is_made_and_lands_in_the_gallery(page: Page) -> None:
    make(page, "a fox in the snow", "42")
    caption = page.locator("#caption")
    expect(caption).to_contain_text("seed 42")
    first = page.get_by_role("region", name="Gallery").get_by_role("img").first
    expect(first).to_have_attribute("alt", "a fox in the snow")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_ctrl_enter_generates_and_escape_stops(page: Page) -> None:
    ask(page, "a slow owl", 150)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.locator("#progress-text")).to_contain_text(re.compile("step [0-9]+ of 150"))
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    expect(page.locator("#error")).to_be_hidden()


def test_a_click_in_the_gallery_restores_every_setting(page: Page) -> None:
    page.get_by_label("9:7, ", exact=False).check(force=True)
    make(page, "a red kite", "7", 5)
    ask(page, "something else", 9, "8")
    page.get_by_role("region", name="Gallery").get_by_role("button", name="a red kite").first.click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red kite")
    expect(page.get_by_label("Steps", exact=True)).to_have_value("5")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
    expect(page.get_by_label("9:7, ", exact=False)).to_be_checked()


def test_a_dropped_picture_restores_its_settings_and_a_foreign_one_says_so(
    page: Page, server: Serving
) -> None:
    make(page, "a <b>bold</b> fox", "99")
    name = server.desk.store.pictures(1)[0].id
    data = list(server.desk.store.png(name))
    page.get_by_label("Prompt", exact=True).fill("")
    page.evaluate(DROP, [data, "kept.png"])
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a <b>bold</b> fox")
    page.evaluate(DROP, [[1, 2, 3], "foreign.png"])
    expect(page.get_by_role("alert")).to_contain_text("foreign.png carries no settings")


DROP = """([bytes, name]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  window.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""


def test_a_part_of_a_picture_is_painted_over(page: Page, server: Serving) -> None:
    make(page, "a fox", "3")
    page.get_by_role("button", name="Paint over", exact=True).click()
    mask = page.get_by_role("img", name="Mask")
    expect(mask).to_be_visible()
    box = mask.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] - 2, steps=4)
    page.mouse.up()
    make(page, "an owl", "4", 6)
    newest = server.desk.store.pictures(1)[0].request
    assert newest.image and newest.mask and newest.strength == 0.6
    page.get_by_role("button", name="Remove").click()
    make(page, "a hen", "4")
    assert not server.desk.store.pictures(1)[0].request.image


def test_two_models_are_compared_on_one_seed(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    expect(page.get_by_label("Against")).to_have_value("other")
    ask(page, "a fox", 2, "5")
    page.get_by_role("button", name="Compare").last.click()
    slider = page.get_by_role("slider", name="tiny to the left")
    expect(slider).to_be_visible()
    slider.fill("20")
    expect(page.get_by_role("table")).to_contain_text("UNet parameters")
    expect(page.locator("#caption")).to_contain_text("times less time")


def test_a_grid_has_a_picture_for_every_pair_of_values(page: Page) -> None:
    page.get_by_role("tab", name="Grid").click()
    ask(page, "a fox", 2, "5")
    page.get_by_label("Values of columns").fill("1, 2")
    page.get_by_label("Values of rows").fill("2, 4")
    expect(page.locator("#grid-size")).to_have_text("4 pictures")
    page.get_by_role("button", name="Draw the grid").click()
    expect(page.get_by_role("region", name="Picture").get_by_role("img")).to_have_count(4)


def test_what_the_server_refuses_is_shown(page: Page) -> None:
    ask(page, "a fox")
    page.evaluate("document.getElementById('steps').removeAttribute('max')")
    page.get_by_label("Steps", exact=True).fill("999")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("150 steps are allowed here")


@pytest.mark.parametrize("width, theme", [(1280, "light"), (1280, "dark"), (380, "light")])
def test_the_page_is_accessible_and_fits(page: Page, width: int, theme: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    make(page, "a fox")
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]})
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_page_finds_the_server_again(browser: Browser, models: tuple[str, str], tmp_path: Path) -> None:
    page = browser.new_page()
    with serving(Settings(tmp_path, models)) as first:
        page.goto(first.url)
        make(page, "before")
    expect(page.get_by_role("status")).to_contain_text("away", timeout=15_000)
    with serving(Settings(tmp_path, models), first.port) as second:
        assert second.port == first.port
        expect(page.get_by_role("status")).to_be_empty(timeout=15_000)
        make(page, "after")
        expect(page.get_by_role("region", name="Gallery").get_by_role("img")).to_have_count(2)
    page.close()
