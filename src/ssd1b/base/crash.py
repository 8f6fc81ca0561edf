"""Named points at which a process kills itself when asked to, so that what follows a crash can be rehearsed.

    SSD1B_CRASH_AT='checkpoint: listed'        the first time the point is passed
    SSD1B_CRASH_AT='checkpoint: listed@3'      the third time
    SSD1B_CRASH_AT='*@17'                      the 17th point of any name
    SSD1B_CRASH_AT='step@5@1'                  the fifth step, in the process of rank 1 only

SIGKILL is what a lost machine looks like to those who are left: no handler runs, no `finally`, nothing is
flushed. Without the variable a point costs one look into the environment. This module does not know what is
being done.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "SSD1B_CRASH_AT"
_passed: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Go on, or die here if `SSD1B_CRASH_AT` asks for it."""
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return
    wanted, count, rank = _parts(asked)
    if wanted not in ("*", name) or rank not in ("", os.environ.get("RANK", "0")):
        return
    _passed[wanted] += 1
    if _passed[wanted] == int(count):
        os.kill(os.getpid(), signal.SIGKILL)


def _parts(asked: str) -> tuple[str, str, str]:
    name, _, rest = asked.partition("@")
    count, _, rank = rest.partition("@")
    return name, count or "1", rank
