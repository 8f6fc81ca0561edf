"""Every command that README, docs and help texts show is one that works.

In Markdown the lines that start with `$ ` inside a ```console block; in help texts the lines that start
with `ssd1b `. A line that ends in a comment starting with `# full size` needs weights or a network that
tests do not have: its verb and options are looked up, its values are not tried.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from ssd1b.cli import main as command_line
from ssd1b.generate.keywords import Said

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"^def (test_\w+)", re.MULTILINE)
TEST_NAME = re.compile(r"`(test_\w+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def shown_in(page: Path) -> list[str]:
    """The commands of a page's console blocks; a line ending in a backslash goes on in the next."""
    commands = []
    for block in CONSOLE.findall(page.read_text()):
        joined = block.replace("\\\n", " ")
        commands += [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]
    return commands


def command_of(verb: command_line.Verb) -> TyperCommand | TyperGroup:
    """What typer makes of a verb's file, as the command line does."""
    module = importlib.import_module(f"ssd1b.cli.{verb.module}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command()(module.command)
    return typer.main.get_command(app)


def leaves(
    command: TyperCommand | TyperGroup, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    """Each verb that does something, with the words that lead to it."""
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            yield from leaves(child, (*path, name))
    else:
        yield path, command


def first_page() -> str:
    """What `ssd1b --help` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as page:
        assert command_line.main(["--help"]) == 0
    return page.getvalue()


def examples_in(text: str) -> list[str]:
    """The example lines of a help text."""
    shown = text.split("Examples", maxsplit=1)[-1]
    stripped = [line.strip().removeprefix("$ ") for line in shown.splitlines()]
    return [line for line in stripped if line.startswith(("ssd1b ", "torchrun "))]


PRESENT = {
    name: command_of(verb)
    for name, verb in command_line.VERBS.items()
    if importlib.util.find_spec(f"ssd1b.cli.{verb.module}")
}
LEAVES = {path: leaf for name, command in PRESENT.items() for path, leaf in leaves(command, (name,))}
SHOWN = [(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in shown_in(page)]
EXAMPLES = [("--help", line) for line in examples_in(first_page())] + [
    (" ".join(path), line) for path, leaf in LEAVES.items() for line in examples_in(leaf.help or "")
]


def check_ssd1b(words: list[str], *, try_values: bool) -> None:
    """Finds the verb and parses the rest as the command line would, without running it."""
    name, words = words[0], words[1:]
    if name in ("--help", "--version"):
        return
    assert name in PRESENT, f"ssd1b has no verb {name!r}"
    command, path = PRESENT[name], ["ssd1b", name]
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{' '.join(path)} has no verb {words[0]!r}"
        path.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    if words == ["--help"]:
        return
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    options = [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    strange = [option for option in options if option not in known]
    assert not strange, f"{' '.join(path)} has no option {strange[0]}; it has {sorted(known)}"
    if try_values:
        command.make_context(" ".join(path), words)


def check_make(words: list[str]) -> None:
    """Every target asked for stands in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = [word for word in words if "=" not in word and not word.startswith("-")]
    assert set(asked) <= targets, f"make knows {sorted(targets)}, not {asked}"


def check(line: str) -> None:
    """Checks one command line, whatever program it calls."""
    full_size = re.search(r"\s# full size", line) is not None
    words = shlex.split(line, comments=True)
    program, rest = Path(words[0]).name, words[1:]
    if program == "ssd1b":
        check_ssd1b(rest, try_values=not full_size)
    elif program == "torchrun":
        check_ssd1b(rest[rest.index("ssd1b") + 1 :], try_values=not full_size)
    elif program == "make":
        check_make(rest)
    elif program in ("python", "bash"):
        assert (ROOT / rest[0]).is_file(), f"{rest[0]} is not in the repository"
    else:
        assert program in ("git", "cd", "pip", "source"), f"nobody checks what {program!r} does"


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_on_a_page_works(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    try:
        check(line)
    except TyperException as error:
        pytest.fail(f"{page}: {line}\n{error}")


@pytest.mark.parametrize(("verb", "line"), EXAMPLES)
def test_an_example_in_a_help_text_works(verb: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    try:
        check(line)
    except TyperException as error:
        pytest.fail(f"ssd1b {verb} --help: {line}\n{error}")


@pytest.mark.parametrize("name", command_line.VERBS)
def test_every_verb_of_the_first_page_is_there(name: str) -> None:
    assert name in PRESENT, f"`ssd1b --help` names {name!r}, but it has no file in ssd1b.cli"


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_verb_shows_an_example_of_itself(path: tuple[str, ...]) -> None:
    examples = examples_in(LEAVES[path].help or "")
    assert any(line.startswith(" ".join(("ssd1b", *path))) for line in examples), "no example in its help"


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_option_says_what_it_is_for(path: tuple[str, ...]) -> None:
    silent = [each.name for each in LEAVES[path].params if not getattr(each, "help", None)]
    assert not silent, f"no help for {silent}"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
def test_the_examples_in_python_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSD1B_CACHE", str(tmp_path / "cache"))  # without exports, so that torch draws
    names: dict[str, object] = {"__name__": "page"}
    for block in PYTHON.findall((ROOT / "docs" / "python.md").read_text()):
        code = compile(block, "docs/python.md", "exec")
        if not block.startswith("# full size"):
            exec(code, names)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{subject}-flat-style-{seed}.png" for subject in ("a-pizza", "an-owl-1-2") for seed in (7, 8)
    }
    assert len(names["thumbnails"]) == 3
    fox, wrapped = ((tmp_path / name).read_bytes() for name in ("fox.png", "wrapped.png"))
    assert Image.open(io.BytesIO(fox)).tobytes() == Image.open(io.BytesIO(wrapped)).tobytes()


def test_the_page_about_python_explains_every_keyword() -> None:
    rows = [row for row in (ROOT / "docs" / "python.md").read_text().splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(Said.__annotations__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = set(TEST_NAME.findall(page.read_text()))
    there = {name for path in (ROOT / "tests").rglob("*.py") for name in TEST.findall(path.read_text())}
    assert named <= there, f"{page.name} names tests that are not there: {sorted(named - there)}"


def test_every_row_of_the_fault_table_has_a_test() -> None:
    rows = [row for row in (ROOT / "docs/faults.md").read_text().splitlines() if row.startswith("| ")]
    bare = [row for row in rows if not TEST_NAME.search(row) and not row.rstrip("| ").endswith("test")]
    assert len(rows) > 20 and not bare, bare


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    broken = [link for link in links if not (page.parent / link).exists()]
    assert not broken, f"{page.name} links to {broken}"


def test_every_note_of_the_comparison_is_there_and_used() -> None:
    text = (ROOT / "docs" / "compared.md").read_text()
    rows = [row.split("|")[1:-1] for row in text.splitlines() if row.startswith("|")]
    used = {int(number) for row in rows for number in re.findall(r"\[(\d+)\]", "".join(row))}
    assert used == {int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)}
    odd = [row[0] for row in rows if len(row) != 7 or not all(cell.strip() for cell in row[1:])]
    assert not odd, odd


def test_the_training_figures_on_the_page_are_the_recorded_ones() -> None:
    page = (ROOT / "docs" / "distill.md").read_text()
    step = json.loads((ROOT / "docs" / "full-size.json").read_text())["training_step"]
    assert step["peak_bytes"] <= step["limit_bytes"]
    last = step["steps"][-1]
    shown = [f"{last[part]:.1f} s" for part in last if part.endswith("_s")]
    shown += [f"{step[key] / 1e9:.1f} GB" for key in ("peak_bytes", "with_checkpoint_peak_bytes")]
    shown += [f"{size / 1e9:.2f} GB" for size in step["parts_bytes"].values() if size]
    assert not [figure for figure in shown if figure not in page]
