"""How a server is set up, and what is refused before it starts.

Does not know HTTP or models.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssd1b.base.errors import RequestError
from ssd1b.serve.limits import Limits

MIN_KEY_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """One server.

    Attributes:
        folder: where jobs and pictures are kept.
        models: as `generate.load` takes them; the first is the default.
        host: address it listens on.
        port: 0 takes a free one.
        api_key: what clients must send; "" asks for none, which only a loopback address may.
        limits: how much it takes on.
        log_prompts: whether prompts go to the log.
    """

    folder: Path
    models: Sequence[str] = ("mini-ssd",)
    host: str = "127.0.0.1"
    port: int = 7860
    api_key: str = ""
    limits: Limits = field(default_factory=Limits)
    log_prompts: bool = False

    def refuse_unsafe(self) -> None:
        """Check what would open the server to people who were not asked in.

        Raises:
            RequestError: another address than loopback without a key, or a key that can be guessed.
        """
        if self.api_key and len(self.api_key) < MIN_KEY_CHARACTERS:
            raise RequestError(
                f"The API key has {len(self.api_key)} characters; take at least {MIN_KEY_CHARACTERS}, such as"
                " the output of `openssl rand -hex 24`."
            )
        if not self.api_key and not is_loopback(self.host):
            raise RequestError(
                f"On {self.host} anybody who can reach this machine could use the server. Give --api-key, or"
                " leave --host out to listen on this machine only."
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
