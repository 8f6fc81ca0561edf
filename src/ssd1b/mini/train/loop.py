"""One plain training loop for the mini world's small networks: cosine learning rate, log, exact resume.

What a step means is the caller's: `loss_at(step)` returns named loss parts; only the one called "loss" is
minimised. The UNets are trained by `ssd1b.distill`, not here.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

Parts = dict[str, Tensor]
LOG_EVERY = 20


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps, peak learning rate (cosine to zero after a short warm-up) and how often to save."""

    steps: int
    learning_rate: float
    warmup: int = 50
    save_every: int = 200
    weight_decay: float = 0.01

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rise = min(1.0, (step + 1) / self.warmup)
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def fit(
    title: str, net: nn.Module, loss_at: Callable[[int], Parts], schedule: Schedule, folder: Path
) -> None:
    """Train `net` in place; run again with the same folder to go on where it stopped.

    Writes `folder/log.jsonl` and `folder/checkpoint.pt` (ours alone, read back without pickled code).

    Raises:
        FloatingPointError: the loss is not finite; nothing was changed by that step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        net.parameters(), weight_decay=schedule.weight_decay, betas=(0.9, 0.99), fused=True
    )
    done = _resume(net, optimizer, folder / "checkpoint.pt")
    net.train()
    with _telling(title, done, schedule.steps, folder / "log.jsonl") as tell:
        for step in range(done, schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            parts = loss_at(step)
            if not torch.isfinite(parts["loss"]):
                raise FloatingPointError(f"{title}: the loss of step {step} is not a finite number")
            parts["loss"].backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % LOG_EVERY == 0:
                tell(step + 1, parts)
            if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
                _save(net, optimizer, step + 1, folder / "checkpoint.pt")
    net.eval()


@contextmanager
def _telling(title: str, done: int, steps: int, log_file: Path) -> Iterator[Callable[[int, Parts], None]]:
    """Yield what writes a step's loss parts to the log and shows them beside a progress bar."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress, log_file.open("a") as log:
        task = progress.add_task(title, total=steps, completed=done, said="")
        began = time.monotonic()

        def tell(step: int, parts: Parts) -> None:
            row = {name: round(float(part.detach()), 5) for name, part in parts.items()}
            rate = (step - done) / (time.monotonic() - began)
            log.write(json.dumps({"step": step, **row, "steps_per_s": round(rate, 3)}) + "\n")
            log.flush()
            progress.update(task, completed=step, said=f"{_said(row)} · {rate:.2f} steps/s")

        yield tell


def _said(row: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in row.items())


def _save(net: nn.Module, optimizer: torch.optim.Optimizer, step: int, path: Path) -> None:
    part = path.with_suffix(".part")
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(path)


def _resume(net: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
