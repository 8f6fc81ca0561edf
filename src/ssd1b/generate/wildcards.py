"""Prompts with gaps: `__color__` takes a line of color.txt, `{red|blue}` one of the two.

Which one follows from the picture's seed, so the same seed says the same. Does not know weights or models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ssd1b.base.errors import MissingFileError, RequestError, did_you_mean
from ssd1b.base.seeds import seed_of
from ssd1b.generate.request import MAX_PROMPT_CHARACTERS

MAX_GAPS = 200
MAX_BYTES = 10_000_000

# A name in pairs of underscores, folders before it; or a choice without another one inside.
_GAP = re.compile(r"__(?P<name>[^\W_](?:[\w/-]*?[^\W_])?)__|\{(?P<choice>[^{}]*\|[^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Wildcards:
    """A folder of text files, one wording a line; None: there is none, and only choices are filled in."""

    folder: Path | None = None
    _read: dict[str, list[str]] = field(default_factory=dict)

    def filled(self, prompt: str, seed: int) -> str:
        """The prompt without gaps; a wording may have gaps of its own.

        Raises:
            RequestError: an unknown wildcard, an empty file, or gaps that never end.
        """
        for number in range(MAX_GAPS):
            gap = _GAP.search(prompt)
            if gap is None:
                return prompt
            wordings = gap["choice"].split("|") if gap["choice"] is not None else self._lines(gap["name"])
            said = wordings[seed_of(seed, "wildcard", number) % len(wordings)]
            prompt = prompt[: gap.start()] + said.strip() + prompt[gap.end() :]
            if len(prompt) > MAX_PROMPT_CHARACTERS:
                break
        raise RequestError(
            f"The prompt's wildcards do not come to an end: {MAX_GAPS} were filled in, or it grew beyond"
            f" {MAX_PROMPT_CHARACTERS} characters. Look for a file that names itself."
        )

    def _lines(self, name: str) -> list[str]:
        if name not in self._read:
            self._read[name] = self._lines_of_file(name)
        return self._read[name]

    def _lines_of_file(self, name: str) -> list[str]:
        if self.folder is None:
            raise RequestError(
                f"The prompt has a wildcard __{name}__, and no folder of wildcards was given: --wildcards"
                f" FOLDER with a file {name}.txt. To draw it as it stands: --plain."
            )
        path = self.folder / f"{name}.txt"
        if not path.is_file():
            files = self.folder.rglob("*.txt")
            known = sorted(each.relative_to(self.folder).with_suffix("").as_posix() for each in files)
            hint = did_you_mean(name, known) or f" There are: {', '.join(known[:20]) or 'none'}."
            raise RequestError(f"There is no wildcard __{name}__ in {self.folder}.{hint}")
        lines = read_lines(path)
        if not lines:
            raise RequestError(f"{path} has no line to choose from. Write one wording a line.")
        return lines


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without empty ones and those that begin with #.

    Raises:
        MissingFileError: no such file.
        RequestError: not a text file, or far too long.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}. Check the path.")
    if path.stat().st_size > MAX_BYTES:
        raise RequestError(f"{path} has more than {MAX_BYTES // 10**6} MB; that is no file of prompts.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not a text file in UTF-8 ({error.reason}).") from error
    lines = [line.strip() for line in text.split("\n")]
    return [line for line in lines if line and not line.startswith("#")]
