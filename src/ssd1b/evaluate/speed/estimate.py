"""Seconds and memory on a machine that has not run anything yet but the probe.

A part's time is its operations over what the engine reached of the limit where it was measured, times this
machine's own limit. How far that is off where it can be checked (each measured case from the others) is said
beside it. Does not measure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from statistics import median

from ssd1b.evaluate.speed.record import Bench

KNOWN = "known.json"


@dataclass(frozen=True, slots=True)
class Reached:
    """What an engine reached of a machine's limit with one part of one case."""

    engine: str
    part: str
    share: float


@dataclass(frozen=True, slots=True)
class Guess:
    """Seconds, and the factor by which they may be off either way."""

    seconds: float
    factor: float

    @property
    def low(self) -> float:
        """If luck has it."""
        return self.seconds / self.factor

    @property
    def high(self) -> float:
        """If not."""
        return self.seconds * self.factor


def known() -> list[Reached]:
    """What the committed runs (docs/bench) reached; shipped with the package."""
    told = json.loads((files("ssd1b.evaluate.speed") / KNOWN).read_text(encoding="utf-8"))
    return [Reached(**each) for each in told["reached"]]


def reached(benches: Iterable[Bench]) -> list[Reached]:
    """Every share of the limit that these runs reached."""
    found = []
    for bench in benches:
        for case in bench.cases:
            for part in case.parts:
                share = bench.share_of_peak(case, part)
                if share is not None:
                    found.append(Reached(case.engine, part, round(share, 4)))
    return found


def guess(
    engine: str,
    work: Mapping[str, float],
    peaks: Mapping[str, float],
    shares: Sequence[Reached],
) -> Guess | None:
    """Seconds for some work; None where this engine was never measured or cannot run here.

    Args:
        engine: as in `ENGINES`.
        work: operations by part, all repetitions counted.
        peaks: this machine's limits in GFLOP/s, from the probe.
        shares: what was reached elsewhere.
    """
    limit = peaks.get("int8" if "int8" in engine else "fp32")
    mine = {part: [one.share for one in shares if (one.engine, one.part) == (engine, part)] for part in work}
    if limit is None or not all(mine.values()):
        return None
    seconds = sum(flops / (median(mine[part]) * limit * 1e9) for part, flops in work.items())
    return Guess(seconds, max(_off_by(found) for found in mine.values()))


def picture(flops: Callable[[str], float], steps: int, rows: int = 2) -> dict[str, float]:
    """A picture's operations by part; `flops` gives those of one run of "text", "unet" and "decode"."""
    return {"text": rows * flops("text"), "unet": rows * steps * flops("unet"), "decode": flops("decode")}


def _off_by(shares: Sequence[float]) -> float:
    """The largest factor between one measured share and the median of the others; 2 where there is one."""
    if len(shares) < 2:
        return 2.0
    ratios = []
    for number, share in enumerate(shares):
        others = [*shares[:number], *shares[number + 1 :]]
        ratios.append(abs(math.log(share / median(others))))
    return math.exp(max(ratios))
