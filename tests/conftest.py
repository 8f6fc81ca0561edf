"""The ground rules of every test: no network but loopback, one thread, one seed, nothing fetched."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator

import pytest

# Before anything imports torch or huggingface_hub: both read these once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _is_loopback(host: object) -> bool:
    """Whether a host, as sockets are given it, is this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def the_same_random_numbers_every_time() -> None:
    """What a test draws from torch's own generator does not change from run to run."""
    # Only where a test has torch already: most of the suite's plain tests should not wait for it.
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def no_network_but_loopback() -> Iterator[None]:
    """A test that reaches for another machine fails with a sentence, whatever the machine it runs on."""
    real_connect, real_lookup = socket.socket.connect, socket.getaddrinfo

    def connect(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and not _is_loopback(address[0]):
            raise RuntimeError(f"a test tried to connect to {address!r}; tests stay on this machine")
        real_connect(self, address)

    def lookup(host: object, *rest: object, **options: object) -> object:
        if not _is_loopback(host):
            raise RuntimeError(f"a test tried to look up {host!r}; tests stay on this machine")
        return real_lookup(host, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket, "getaddrinfo", lookup)
        yield
