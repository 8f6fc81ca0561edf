"""`ssd1b serve`: a page and an HTTP server on this machine.

Wires settings, desk and uvicorn together; what is served is not known here.
"""

from __future__ import annotations

import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd1b.base.errors import RequestError
from ssd1b.base.files import cache_folder
from ssd1b.cli import show

if TYPE_CHECKING:
    from ssd1b.serve.settings import Settings


def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Models to offer, the first is the default; left out: mini-ssd and mini-sdxl."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine need a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    api_key: Annotated[
        str, typer.Option(envvar="SSD1B_API_KEY", help="What clients must send; best set in the environment.")
    ] = "",
    folder: Annotated[
        Path | None, typer.Option(help="Where the queue and the pictures are kept; left out: the cache.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="torch, openvino, or auto: the fastest that is there.")
    ] = "auto",
    precision: Annotated[str | None, typer.Option(help="Of the OpenVINO engine: fp16 or int8.")] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts to the log.")] = False,
) -> None:
    """Serve a page for people, and the APIs of OpenAI and A1111 for programs.

    Without models the embedded miniatures draw, offline. Jobs that wait survive the end of the server.

    Examples:
        ssd1b serve

        ssd1b serve segmind/SSD-1B mini-ssd --port 8000    # full size

        SSD1B_API_KEY=$(openssl rand -hex 24) ssd1b serve --host 0.0.0.0
    """
    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise RequestError("The server needs two packages more. Install them: pip install 'ssd1b[serve]'.")
    from ssd1b.generate.load import wish_of
    from ssd1b.serve.desk import Desk
    from ssd1b.serve.settings import Settings

    place = folder or cache_folder() / "serve"
    settings = Settings(
        place, models or ("mini-ssd", "mini-sdxl"), host, port, api_key, log_prompts=log_prompts
    )
    settings.refuse_unsafe()
    desk = Desk(settings, wish_of(engine, precision))
    for name in desk.residence.names:
        desk.residence.about(name)
    _run(desk, settings)


def _run(desk: object, settings: Settings) -> None:
    """Listen until asked to stop."""
    import logging

    import uvicorn

    from ssd1b.serve.app import application
    from ssd1b.serve.desk import Desk

    assert isinstance(desk, Desk), "made by `command`"
    log = logging.getLogger("ssd1b.serve")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())  # on standard error, one line of JSON a job
    ear = listener(settings.host, settings.port)
    name, port = ear.getsockname()[:2]
    where = f"[{name}]" if ":" in name else name
    show.say(f"Serving {', '.join(desk.residence.names)} at http://{where}:{port} (Ctrl-C stops).")
    config = uvicorn.Config(
        application(desk),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    with ear:
        uvicorn.Server(config).run(sockets=[ear])


def listener(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        RequestError: the address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ear = socket.socket(family, socket.SOCK_STREAM)
    ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        ear.bind((host, port))
        ear.listen(128)
    except OSError as error:
        ear.close()
        raise RequestError(
            f"Cannot listen on {host}:{port} ({error.strerror}). Is a server there already? Give --port."
        ) from error
    return ear
