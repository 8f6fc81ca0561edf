"""The measuring process: one engine, one model, told on standard input what to run next.

    python -m ssd1b.evaluate.speed.worker ENGINE FOLDER THREADS

Each line in is a JSON object {"part": …, "px": [width, height]}, each line out one with the seconds it took
and the most memory this process has had. Only one part is held at a time. Anything else that the libraries
print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Serve until standard input ends."""
    engine, folder, threads = arguments[0], Path(arguments[1]), int(arguments[2])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    import torch

    from ssd1b.evaluate.speed import peers, runners

    torch.set_num_threads(threads)
    kinds = {**runners.ENGINES, **peers.ENGINES}
    runner = kinds[engine](folder)
    answers.write(json.dumps({"ready": True, "peak_bytes": peak_bytes()}) + "\n")
    part = ""
    for line in sys.stdin:
        told = json.loads(line)
        width, height = told["px"]
        if told["part"] != part:  # the part before is not needed any more: give its memory back
            runner, part = kinds[engine](folder), told["part"]
        began = time.perf_counter()
        seconds = getattr(runner, told["part"])((width, height))
        took = time.perf_counter() - began if seconds is None else seconds
        answers.write(json.dumps({"seconds": took, "peak_bytes": peak_bytes()}) + "\n")
    return 0


def peak_bytes() -> int:
    """The most memory that this process has had resident, as the kernel counts it."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
