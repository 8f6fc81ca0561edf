"""`ssd1b show`: what a picture was asked to be.

Reads the request out of a file; does not know how pictures are made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd1b.cli import show

if TYPE_CHECKING:
    from ssd1b.generate.request import Request


def command(
    picture: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP that `ssd1b generate` wrote.")],
    as_text: Annotated[
        bool, typer.Option("--parameters", help="As A1111 writes it, for other programs.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Print the request that a picture carries.

    Fields that were left at what they are without being asked for are left out of the table; --json has all
    of them. `ssd1b generate --like PICTURE` makes the picture again.

    Examples:
        ssd1b show out/a-fox-7.png

        ssd1b show out/a-fox-7.webp --json
    """
    from ssd1b.generate.infotext import parameters
    from ssd1b.generate.picture import read_record

    request, record = read_record(picture)
    if "pictures" in record:
        show.say(f"{picture} is a sheet of {record['pictures']} pictures; this is the first one's request.")
    if as_json:
        show.print_json({"picture": str(picture), **record, "request": request.model_dump()})
    elif as_text:
        show.stdout().print(parameters(request), markup=False, soft_wrap=True)
    else:
        _table(request, picture)


def _table(request: Request, picture: Path) -> None:
    from rich.markup import escape

    fields = type(request).model_fields
    said = {name: getattr(request, name) for name in fields if getattr(request, name) != fields[name].default}
    if request.adapters:
        worn = [f"{each.name}:{each.weight:g} (SHA-256 {each.digest})" for each in request.adapters]
        said["adapters"] = ", ".join(worn)
    rows = [[name.replace("_", " "), escape(_printable(str(value)))] for name, value in said.items()]
    show.table(escape(picture.name), ["field", "value"], rows)


def _printable(text: str) -> str:
    """Without what would steer a terminal; line breaks as they would be written."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )
