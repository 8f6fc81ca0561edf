"""What a benchmark found: plain facts, the ratios that follow from them, and the JSON that keeps both.

Seconds depend on the machine, ratios of one run much less. This module measures nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from statistics import median
from typing import Any

from ssd1b.base.errors import DamagedFileError

FORMAT = 1
PARTS = ("text", "unet", "decode", "picture")
"""Both text encoders for one prompt, one UNet call for one row, the VAE's decoder, and a whole picture."""
SHORT = {"torch": "eager", "openvino-fp16": "fp16", "openvino-int8": "int8"}
"""How engines are called in the names of ratios."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One part of one case.

    Attributes:
        seconds: every warm round, in order.
        cold: the first time in a new process, with loading and compiling.
        peak_bytes: the most memory the process had taken when this part was done.
        flops: floating point operations of one run; None where they were not counted.
    """

    seconds: tuple[float, ...]
    cold: float
    peak_bytes: int
    flops: int | None = None

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """The slowest round less the fastest, as a share of the middle one."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    @property
    def gflops(self) -> float | None:
        """Billions of operations a second that were reached."""
        return None if self.flops is None else self.flops / self.median / 1e9


@dataclass(frozen=True, slots=True)
class Case:
    """One model on one engine at one size (width, height in pixels)."""

    model: str
    engine: str
    px: tuple[int, int]
    parts: Mapping[str, Timing] = field(default_factory=dict)

    def picture_s(self, steps: int, rows: int = 2) -> float | None:
        """Seconds of a picture, added up from its parts; `rows` is 2 with guidance. None: a part lacks."""
        if not {"text", "unet", "decode"} <= self.parts.keys():
            return None
        text, unet, decode = (self.parts[part].median for part in ("text", "unet", "decode"))
        return rows * text + steps * rows * unet + decode


@dataclass(frozen=True, slots=True)
class Bench:
    """A whole run.

    Attributes:
        cases: in the order they were measured.
        peaks: this machine's measured limit in GFLOP/s of matrix products, "fp32" and "int8".
        machine: processor, cores, threads, memory, system.
        about: command, date, versions, rounds, and whether all engines took turns.
        steps: of a whole picture, with guidance.
    """

    cases: Sequence[Case]
    peaks: Mapping[str, float]
    machine: Mapping[str, object]
    about: Mapping[str, object]
    steps: int = 25

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as fast, named as "ssd-1b/int8_vs_eager_unet" and "sdxl_vs_ssd-1b/int8_unet".

        The first of both names is the engine that is faster at the UNet, or the model that is slower.
        Sizes but the first carry theirs: "…_unet@1024x1024". "picture" is added up from its
        parts, `steps` steps with guidance. Where model and engine both differ, only that is compared:
        "sdxl/diffusers_vs_ssd-1b/int8_picture".
        """
        return {name: round(ratio, 3) for name, ratio in self._ratios()}

    def _ratios(self) -> Iterator[tuple[str, float]]:
        first = self.cases[0].px if self.cases else (0, 0)
        for one, two in combinations(self.cases, 2):
            if one.px != two.px:
                continue
            at = "" if one.px == first else f"@{one.px[0]}x{one.px[1]}"
            slow, fast = sorted((one, two), key=lambda case: -case.parts["unet"].median)
            if slow.model != fast.model and slow.engine != fast.engine:
                yield from _pictures(slow, fast, self.steps, at)
                continue
            if slow.model == fast.model:
                name = f"{slow.model}/{_short(fast.engine)}_vs_{_short(slow.engine)}"
            else:
                name = f"{slow.model}_vs_{fast.model}/{_short(slow.engine)}"
            for part, left, right in _both(slow, fast, self.steps):
                yield f"{name}_{part}{at}", left / right

    def share_of_peak(self, case: Case, part: str = "unet") -> float | None:
        """What was reached of the measured limit: int8's for eight-bit engines, else fp32's."""
        reached = case.parts[part].gflops if part in case.parts else None
        limit = self.peaks.get("int8" if "int8" in case.engine else "fp32")
        return reached / limit if reached and limit else None

    def as_json(self) -> str:
        """Everything, for programs."""
        cases = [
            {
                "model": case.model,
                "engine": case.engine,
                "width": case.px[0],
                "height": case.px[1],
                "parts": {part: _told(timing) for part, timing in case.parts.items()},
                "picture_s_from_parts": _rounded(case.picture_s(self.steps)),
                "unet_share_of_peak": _rounded(self.share_of_peak(case)),
            }
            for case in self.cases
        ]
        told = {
            "format": FORMAT,
            **self.about,
            "machine": dict(self.machine),
            "peak_gflops": {name: round(value, 1) for name, value in self.peaks.items()},
            "steps": self.steps,
            "guidance_rows": 2,
            "cases": cases,
            "ratios": self.ratios,
        }
        return json.dumps(told, indent=1) + "\n"


def read(text: str, where: str) -> Bench:
    """Read what `as_json` wrote.

    Raises:
        DamagedFileError: it is something else.
    """
    try:
        told: dict[str, Any] = json.loads(text)
        if told["format"] != FORMAT:
            raise DamagedFileError(f"{where} is a benchmark of format {told['format']}; {FORMAT} is read.")
        cases = [
            Case(
                each["model"],
                each["engine"],
                (each["width"], each["height"]),
                {part: _timing(timing) for part, timing in each["parts"].items()},
            )
            for each in told["cases"]
        ]
        known = ("format", "machine", "peak_gflops", "steps", "guidance_rows", "cases", "ratios")
        about = {key: value for key, value in told.items() if key not in known}
        return Bench(cases, told["peak_gflops"], told["machine"], about, told["steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{where} is not a benchmark of ssd1b ({error!r}).") from error


def _pictures(one: Case, two: Case, steps: int, at: str) -> Iterator[tuple[str, float]]:
    """The ratio of whole pictures of another model on another engine, the slower first."""
    pairs = [(each.picture_s(steps), f"{each.model}/{_short(each.engine)}") for each in (one, two)]
    known = sorted(((seconds, name) for seconds, name in pairs if seconds is not None), reverse=True)
    if len(known) == 2:
        (slow_s, slow), (fast_s, fast) = known
        yield f"{slow}_vs_{fast}_picture{at}", slow_s / fast_s


def _both(one: Case, two: Case, steps: int) -> Iterator[tuple[str, float, float]]:
    """The parts that both have, and the picture added up from them."""
    for part in ("text", "unet", "decode"):
        if part in one.parts and part in two.parts:
            yield part, one.parts[part].median, two.parts[part].median
    left, right = one.picture_s(steps), two.picture_s(steps)
    if left is not None and right is not None:
        yield "picture", left, right


def _short(engine: str) -> str:
    return SHORT.get(engine, engine)


def _told(timing: Timing) -> dict[str, object]:
    return {
        "median_s": _rounded(timing.median),
        "spread": _rounded(timing.spread),
        **asdict(timing),
        "seconds": [round(value, 5) for value in timing.seconds],
        "cold": _rounded(timing.cold),
        "gflops": _rounded(timing.gflops),
    }


def _timing(told: Mapping[str, Any]) -> Timing:
    return Timing(tuple(told["seconds"]), told["cold"], told["peak_bytes"], told["flops"])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
