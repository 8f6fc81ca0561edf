"""A function run in a process of its own, so that all memory it took is given back when it ends.

For stages of long work that leave little behind but need much: libraries that keep what they have read would
otherwise add up. Does not know what it runs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ssd1b.base.errors import RequestError, UserError

Result = TypeVar("Result")
Heard = Callable[[str, int, int], None]
"""Hears of progress: what is being done, how many of how many are done."""


def run_apart(function: Callable[..., Result], *arguments: object, heard: Heard) -> Result:
    """Return `function(*arguments, heard)`, computed in a new process.

    The process starts afresh: function, arguments and result must be picklable, and a script that calls this
    needs the usual `if __name__ == "__main__":`.

    Raises:
        UserError: as the function raised it.
        RequestError: the process died without an answer, as it does when memory runs out.
    """
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, function, arguments), daemon=True)
    process.start()
    there.close()
    try:
        while True:
            kind, told = here.recv()
            if kind == "heard":
                heard(*told)
            elif kind == "failed":
                raise told
            else:
                result: Result = told
                return result
    except EOFError:
        process.join()
        raise RequestError(_last_words(function.__name__, process.exitcode)) from None
    finally:
        process.kill()
        process.join()
        here.close()


def _answer(out: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    """In the new process: run, and send progress and result. Ctrl-C is the parent's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = function(*arguments, lambda what, done, total: out.send(("heard", (what, done, total))))
    except UserError as error:
        out.send(("failed", error))
    else:
        out.send(("done", result))


def _last_words(name: str, status: int | None) -> str:
    why = "It was killed, which is what happens when memory runs out" if status == -9 else "See above for why"
    gone = f"The process for '{name.strip('_')}' ended without an answer (exit {status})"
    return f"{gone}. {why}. Nothing was written."
