"""The program itself: help without weight, errors as one paragraph, exit codes."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

import ssd1b
from ssd1b.base.errors import UserError
from ssd1b.cli import main as program
from ssd1b.cli.main import VERBS, main


def test_help_loads_neither_torch_nor_any_verb() -> None:
    code = (
        "import sys; from ssd1b.cli.main import main; status = main(['--help']);"
        "print(*[name for name in sys.modules], file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & {"torch", "diffusers", "transformers", "numpy", "typer", "ssd1b.cli.plan"}
    assert "ssd1b generate" in done.stdout


def test_help_names_every_verb_and_gives_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["-h"]) == 0
    words = capsys.readouterr().out
    assert all(f"  {name} " in words for name in VERBS)
    assert "Examples" in words


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ssd1b {ssd1b.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_file_and_examples_in_its_help(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_spec(f"ssd1b.cli.{VERBS[verb].module}")
    assert main([verb, "--help"]) == 0
    words = capsys.readouterr().out
    assert f"Usage: ssd1b {verb}" in words
    assert f"ssd1b {verb}" in words.split("Examples:")[1]


@pytest.mark.parametrize("verb", ["list", "show", "diff", "draw"])
def test_every_verb_of_plan_has_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", verb, "--help"]) == 0
    assert f"ssd1b plan {verb}" in capsys.readouterr().out.split("Examples:")[1]


def test_an_unknown_verb_is_one_paragraph_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plam"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "Did you mean 'plan'?" in said.err


def test_a_user_error_is_one_paragraph_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[str]) -> int:
        raise UserError(
            "The file [a] is not there, and this sentence is longer than a line of eighty letters is."
        )

    monkeypatch.setattr(program, "_run", fail)
    assert main(["plan"]) == 2
    said = capsys.readouterr()
    assert said.err == (
        "The file [a] is not there, and this sentence is longer than a line of eighty letters is.\n"
    )


def test_an_interrupt_is_one_line_and_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ssd1b.plan.catalog.find", interrupted)
    assert main(["plan", "list"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ssd1b.plan.catalog.find", broken)
    with pytest.raises(ZeroDivisionError):
        main(["plan", "list"])


def test_a_wrong_option_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "list", "--colour"]) == 2
    assert "--colour" in capsys.readouterr().err


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ssd1b", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"ssd1b {ssd1b.__version__}\n"
