"""Several processes of one command on this machine, as ranks of one run; waited for, Ctrl-C included.

The few lines of torchrun that a demonstration needs, without its remarks when it is interrupted. Knows
nothing of what the command does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence

_LOOK_EVERY_S = 0.1


def run_ranks(words: Sequence[str], world: int, threads: int) -> int:
    """Run `words` as `world` ranks with `threads` threads each; return the first status that is not 0.

    When one fails, the others are ended. Ctrl-C reaches all of them; they are given the time to save.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and all have ended.
    """
    port = _free_port()
    processes = [
        subprocess.Popen(words, env=_environment(rank, world, threads, port)) for rank in range(world)
    ]
    interrupted = False
    while True:
        try:
            status = _wait(processes)
            break
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt
    return status


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Return when all have ended, ending the rest as soon as one has failed."""
    while None in (statuses := [process.poll() for process in processes]):
        if any(statuses):
            for process in processes:
                if process.poll() is None:
                    process.terminate()
        time.sleep(_LOOK_EVERY_S)
    return next((status for status in statuses if status), 0)


def _environment(rank: int, world: int, threads: int, port: int) -> dict[str, str]:
    """This process's environment, and what torch.distributed reads from it where there are several ranks."""
    own = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if world > 1:
        own |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return own


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
