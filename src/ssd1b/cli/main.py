"""`ssd1b VERB …`: finds the verb, loads its file and nothing else, and turns errors into one paragraph.

The help is a table in this file, so that `ssd1b --help` loads neither torch nor any verb. A verb's file has
either `app`, a typer application with verbs of its own, or a function `command`. This module does not know
what the verbs do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

import ssd1b
from ssd1b.base.errors import UserError, did_you_mean

FAILED, USED_WRONGLY, INTERRUPTED = 1, 2, 130


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb: its name, the file in `ssd1b.cli` it lives in, and its line in the help."""

    name: str
    module: str
    about: str


# fmt: off
SECTIONS: dict[str, tuple[Verb, ...]] = {
    "Make a student": (
        Verb("plan",     "plan",     "list, show, compare and draw which layers a UNet keeps"),
        Verb("carve",    "carve",    "cut a student out of an SDXL teacher on disk"),
        Verb("data",     "data",     "prepare captioned pictures: sort out, bucket, encode"),
        Verb("distill",  "distill",  "train a student with layer-level losses, as a recipe says"),
    ),
    "Make pictures": (
        Verb("export",   "export",   "write a model as another engine wants it"),
        Verb("generate", "generate", "make pictures from a sentence"),
        Verb("show",     "picture",  "print what a picture was asked to be"),
        Verb("evaluate", "evaluate", "measure how well a model does what it is told"),
        Verb("compare",  "compare",  "put two models side by side in one report"),
        Verb("serve",    "serve",    "a page and an HTTP server: OpenAI's and A1111's APIs, jobs, a gallery"),
        Verb("bench",    "bench",    "time engines on this machine, at true size, without downloads"),
    ),
    "The miniature": (
        Verb("demo",     "demo",     "the whole story in ten minutes: carve, distil, compare"),
        Verb("mini",     "mini",     "train the embedded models anew, look at their world"),
    ),
}
# fmt: on
VERBS = {verb.name: verb for verbs in SECTIONS.values() for verb in verbs}

_EXAMPLES = """\
  ssd1b generate "a fox, flat style, on a blue background"
  ssd1b plan show ssd-1b
  ssd1b carve --teacher path/to/sdxl --plan ssd-1b --out my-student
  ssd1b demo"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit status.

    0: done. 2: the user can put it right, and standard error says how. 130: interrupted. Other exceptions are
    faults of this program and keep their traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except UserError as error:
        _complain(str(error))
        return USED_WRONGLY
    except KeyboardInterrupt:
        _complain("Interrupted.")
        return INTERRUPTED


def _run(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        sys.stdout.write(_help())
        return 0
    if words[0] in ("--version", "-V"):
        sys.stdout.write(f"ssd1b {ssd1b.__version__}\n")
        return 0
    verb = VERBS.get(words[0])
    if verb is None:
        known = ", ".join(VERBS)
        hint = did_you_mean(words[0], VERBS)
        raise UserError(
            f"ssd1b has no verb '{words[0]}'.{hint} It has: {known}. `ssd1b --help` explains them."
        )
    try:
        _command_of(verb)(words[1:], f"ssd1b {verb.name}")
    except SystemExit as end:  # typer ends every command this way
        if end.code == INTERRUPTED:
            _complain("Interrupted.")
        return end.code if isinstance(end.code, int) else FAILED if end.code else 0
    return 0


def _command_of(verb: Verb) -> Callable[[list[str], str], None]:
    """Load a verb's file and return what runs it: (words after the verb, name for its help)."""
    import typer

    module = import_module(f"ssd1b.cli.{verb.module}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command()(module.command)
    command = typer.main.get_command(app)
    command.context_settings.setdefault("help_option_names", ["-h", "--help"])
    return lambda words, name: command(args=words, prog_name=name)


def _help() -> str:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    lines = [ssd1b.__doc__ or "", "", f"{bold}Usage{plain}", "  ssd1b VERB [OPTIONS]"]
    for title, verbs in SECTIONS.items():
        lines += ["", f"{bold}{title}{plain}", *(f"  {verb.name:10} {verb.about}" for verb in verbs)]
    lines += ["", f"{bold}Examples{plain}", _EXAMPLES, "", f"{bold}Options{plain}"]
    lines += [
        "  -h, --help     this page; `ssd1b VERB --help` explains a verb",
        "  -V, --version  the version",
    ]
    return "\n".join(lines) + "\n"


def _complain(paragraph: str) -> None:
    """Print one paragraph to standard error, red where that is a terminal."""
    from ssd1b.cli import show

    show.stderr().print(paragraph, style="red", markup=False, highlight=False, soft_wrap=True)
