"""Caption files of a folder: metadata.jsonl, CSV, or a .txt beside each picture.

A caption file is read whole before anything is done, so that a broken one is said at once, with its line.
Does not know pictures.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence

from ssd1b.base.errors import DataError, did_you_mean
from ssd1b.data.layouts import CAPTIONS
from ssd1b.data.places import Place

USUAL = ("metadata.jsonl", "captions.jsonl", "metadata.csv", "captions.csv")
"""Caption files that are found without being named."""
FILES = ("file_name", "file", "image", "filename", "path", "image_path")
"""Names that the column of file names usually has."""

Fields = dict[str, object]


def read(place: Place, name: str, *, column: str = "", any_caption: bool = True) -> dict[str, Fields]:
    """The fields of each picture, by its file name as in the caption file.

    Args:
        place: the folder the caption file lies in.
        name: the caption file: .jsonl, .csv or .tsv.
        column: the caption's column; found by its usual names if not given.
        any_caption: whether a column of captions must be there at all.

    Raises:
        DataError: not UTF-8, a broken line, a missing column, or two lines for one picture.
    """
    text = _text(place, name)
    rows = _json_lines(text, name) if name.endswith((".jsonl", ".json")) else _table(text, name)
    found: dict[str, Fields] = {}
    where = ""
    for line, fields in rows:
        if not where:
            where = pick(fields, "", FILES, f"{name}, line {line}", "file names")
            if any_caption or column:
                pick(fields, column, CAPTIONS, f"{name}, line {line}", "captions")
        file = fields.get(where)
        if not isinstance(file, str) or not file:
            raise DataError(f"{name}, line {line}: '{where}' is {file!r}, not a file name. Repair the line.")
        if file in found:
            raise DataError(f"{name}, line {line}: {file} has a line already. Remove one of the two.")
        found[file] = fields
    if not found:
        raise DataError(f"{name} in {place.root} holds no lines. Fill it, or remove it to use .txt captions.")
    return found


def pick(fields: Mapping[str, object], asked: str, usual: Sequence[str], where: str, what: str) -> str:
    """The column that is meant: the asked one, or the first usual name that is there.

    Raises:
        DataError: it is not there; the columns that are, are named.
    """
    for name in (asked,) if asked else usual:
        if name in fields:
            return name
    if asked:
        hint = did_you_mean(asked, fields)
        raise DataError(f"{where}: there is no column '{asked}'.{hint} There are: {', '.join(fields)}.")
    raise DataError(
        f"{where}: no column of {what} was found under {', '.join(usual)}. There are: {', '.join(fields)}."
        " Name it, see `ssd1b data ingest --help`."
    )


def _text(place: Place, name: str) -> str:
    try:
        return place.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} in {place.root} is not UTF-8 (byte {error.start}). Convert it, for example with"
            " `iconv -f latin1 -t utf-8`."
        ) from None


def _json_lines(text: str, name: str) -> Iterator[tuple[int, Fields]]:
    for line, row in enumerate(text.splitlines(), 1):
        if not row.strip():
            continue
        try:
            fields = json.loads(row)
        except ValueError as error:
            raise DataError(
                f"{name}, line {line} is not JSON ({error}). Repair or remove the line."
            ) from None
        if not isinstance(fields, dict):
            raise DataError(f"{name}, line {line} is not a JSON object. Repair or remove the line.")
        yield line, fields


def _table(text: str, name: str) -> Iterator[tuple[int, Fields]]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, dialect=_dialect(name))
        for row in reader:
            if None in row or None in row.values():
                found, wanted = len([v for v in row.values() if v is not None]), len(reader.fieldnames or ())
                many = found + len(row.get(None, ())) - 1 if None in row else found
                raise DataError(
                    f"{name}, line {reader.line_num} has {many} cells; its head has {wanted}. Repair the line"
                    " (a comma in a caption needs quotes)."
                )
            yield reader.line_num, {str(key): _number(value) for key, value in row.items()}
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num} is not CSV ({error}). Repair the line.") from None


def _dialect(name: str) -> str:
    return "excel-tab" if name.endswith(".tsv") else "excel"


def _number(value: str) -> object:
    """A score in a table is a number; everything else stays text."""
    try:
        return float(value) if value.strip() and value.strip()[-1].isdigit() else value
    except ValueError:
        return value
