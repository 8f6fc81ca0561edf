"""The ablation: what a student is worth when it was trained with and without its teacher.

Reads `ablation.json`, which a student carries beside its weights:

    {"arms": [{"name": "distilled (faithful)", "samples": 64000, "seconds": 3600.0,
               "seeds": [{"seed": 0, "overall": 0.81, "scores": {...}}, ...]}, ...],
     "teacher": {"overall": 0.90}, "command": "..."}

This module does not know how the numbers were made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssd1b.base.errors import DamagedFileError

# Student's t, 97.5 %: index n - 2 for n values; beyond the table the normal quantile is close enough.
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
_Z_975 = 1.96


class _Seed(BaseModel):
    model_config = ConfigDict(extra="ignore")
    seed: int
    overall: float = Field(ge=0, le=1)


class _Arm(BaseModel):
    model_config = ConfigDict(extra="ignore")
    name: str
    samples: int = Field(ge=0)
    seconds: float = Field(ge=0)
    seeds: list[_Seed] = Field(min_length=1)


class _Teacher(BaseModel):
    model_config = ConfigDict(extra="ignore")
    overall: float = Field(ge=0, le=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")
    arms: list[_Arm] = Field(min_length=1)
    teacher: _Teacher | None = None
    command: str | list[str] = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training: what it cost, and the overall score of every seed, in 0..1."""

    name: str
    samples: int
    seconds: float
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return sum(self.values) / len(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean by Student's t; None for a single seed."""
        return mean_interval(self.values)


@dataclass(frozen=True, slots=True)
class Ablation:
    """All arms, the teacher's overall score if known, and the command that made it."""

    arms: tuple[Arm, ...]
    teacher: float | None
    command: str
    note: str = ""


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Where the mean of normal draws lies with 95 % certainty; None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    t = _T_975[n - 2] if n - 2 < len(_T_975) else _Z_975
    half = t * spread / math.sqrt(n)
    return max(0.0, mean - half), min(1.0, mean + half)


def read(path: Path) -> Ablation:
    """Read an ablation file.

    Raises:
        DamagedFileError: it is not JSON, or not an ablation.
    """
    try:
        file = _File.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise DamagedFileError(
            f"{path} is not an ablation file: {str(error).splitlines()[0]}. It needs `arms`, each with name,"
            " samples, seconds and seeds; remove it to make the report without that part."
        ) from error
    arms = tuple(
        Arm(arm.name, arm.samples, arm.seconds, tuple(seed.overall for seed in arm.seeds))
        for arm in file.arms
    )
    command = file.command if isinstance(file.command, str) else " ".join(file.command)
    return Ablation(arms, file.teacher.overall if file.teacher else None, command, file.note)
