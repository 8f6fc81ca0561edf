"""A real server on a free port of this machine, with a tiny random model that draws in a blink."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from tests.tiny import tiny_pipeline

from ssd1b.cli.serve import listener
from ssd1b.generate.load import EngineWish
from ssd1b.serve.app import application
from ssd1b.serve.desk import Desk
from ssd1b.serve.settings import Settings


@dataclass(frozen=True)
class Serving:
    """A server that runs: its address and its inside."""

    url: str
    port: int
    desk: Desk


@contextmanager
def serving(settings: Settings, port: int = 0) -> Iterator[Serving]:
    """Run a server in a thread of this process until the block ends."""
    desk = Desk(settings, EngineWish("torch"))
    with listener("127.0.0.1", port) as socket:
        port = socket.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(application(desk), log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Serving(f"http://127.0.0.1:{port}", port, desk)
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two tiny models, as folders."""
    place = tmp_path_factory.mktemp("models")
    return str(tiny_pipeline(place / "tiny")), str(tiny_pipeline(place / "other"))


@pytest.fixture(scope="module")
def server(models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One server for the tests of a file."""
    with serving(Settings(Path(tmp_path_factory.mktemp("serve")), models)) as running:
        yield running
