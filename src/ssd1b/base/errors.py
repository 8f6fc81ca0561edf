"""Every error that a user can put right, and the "did you mean" that goes with it.

    UserError
    ├── PlanError          a layer plan is unknown or cannot be built
    ├── LayoutError        weights do not fit the layout they claim
    ├── DamagedFileError   a file is cut short or is not what its name says
    ├── MissingFileError   a file or folder is not there
    ├── OutputExistsError  the output is there already and would be overwritten
    ├── DiskFullError      no room left to write
    ├── RecipeError        a recipe does not validate
    ├── RequestError       a picture was asked for that cannot be made
    ├── DataError          a collection of pictures cannot be read as asked
    └── HubError           the model hub cannot be reached or refuses

The message says what is wrong, where, and what to do. The command line prints it as one paragraph and ends
with status 2; a bug of ours is an assertion or any other exception, and keeps its traceback. This module does
not know who raises what.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. The message is a full paragraph: what, where, what to do."""


class PlanError(UserError):
    """A layer plan is unknown, or asks for a UNet that cannot exist."""


class LayoutError(UserError):
    """Weights do not fit the layout they are read as: a key is missing, unexpected or of another shape."""


class DamagedFileError(UserError):
    """A file is cut short, or is not what it claims to be."""


class MissingFileError(UserError):
    """A file or folder that is needed is not there."""


class OutputExistsError(UserError):
    """The output is there already, and nothing is overwritten unasked."""


class DiskFullError(UserError):
    """There is no room left on the disk that was being written to."""


class RecipeError(UserError):
    """A recipe does not validate."""


class RequestError(UserError):
    """A picture was asked for that this model cannot make."""


class DataError(UserError):
    """A collection of pictures cannot be read as asked: its captions, its columns, or there are none."""


class HubError(UserError):
    """The model hub cannot be reached, or does not have what was asked for."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that was probably meant by `name`, or None when nothing is close.

    Punctuation and case are ignored first: 'SSD1B' finds 'ssd-1b'.
    """
    known = list(names)
    plain = {_letters(one): one for one in reversed(known)}
    if _letters(name) in plain:
        return plain[_letters(name)]
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with its leading blank, or an empty string when nothing is close."""
    near = nearest(name, names)
    return f" Did you mean '{near}'?" if near else ""


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
