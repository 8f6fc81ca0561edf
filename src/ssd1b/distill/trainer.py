"""The loop: batches in, weights moved, everything that must survive saved.

Knows one stage of training: a student, an objective, a batch source. Does not know where any of them
came from, how a student is carved or written as a model, nor how progress is drawn.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from ssd1b.base.errors import UserError
from ssd1b.distill import checkpoint, draws, optim
from ssd1b.distill.checkpoint import Checkpoint, Position
from ssd1b.distill.journal import Journal, Moment, Silent, Watcher, Window
from ssd1b.distill.ranks import Ranks
from ssd1b.distill.recipe import Stage
from ssd1b.distill.step import Objective, losses
from ssd1b.models.batch import Batch, BatchSource, Caption


class NonFiniteLossError(UserError):
    """The loss or gradient is not a number. Nothing was changed by the step."""


class Stopping:
    """Whether someone asked the run to stop. The loop finishes its step, saves and ends."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Ask for the stop."""
        self.asked = True


@contextmanager
def stopping_on_signals() -> Iterator[Stopping]:
    """Inside the `with`, Ctrl-C and SIGTERM ask for a stop instead of ending the process."""
    stopping = Stopping()
    before = {number: signal.signal(number, stopping.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Surroundings:
    """What a stage runs in: the run's folder and seed, its processes, its watchers."""

    steps_folder: Path
    journal: Journal
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ranks: Ranks = field(default_factory=Ranks)
    watcher: Watcher = field(default_factory=Silent)
    stopping: Stopping = field(default_factory=Stopping)


class Trainer:
    """One stage being trained. `step` optimizer steps are done; `student` holds the latest weights."""

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        source: BatchSource,
        stage: Stage,
        around: Surroundings,
    ) -> None:
        """Freeze what the stage does not train and make room for gradients and AdamW's states."""
        self.student, self.objective, self.source = student, objective, source
        self.stage, self.around = stage, around
        self.parameters = optim.trainable(student, stage.trainable)
        if not self.parameters:
            raise UserError(f"Stage '{stage.name}': no parameter's name has one of {list(stage.trainable)}.")
        self.gradients = optim.FlatGradients(list(self.parameters.values()))
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=stage.learning_rate,
            betas=stage.betas,
            weight_decay=stage.weight_decay,
            fused=True,
        )
        self.average = optim.Average(self.parameters, stage.ema) if stage.ema else None
        self.empty = _caption_to(source.empty(), around.device) if stage.caption_dropout else None
        self.step = 0

    def run(self, stage_index: int, steps_before: int) -> bool:
        """Train to the stage's last step; False if stopped before it. Either way everything is saved.

        Raises:
            NonFiniteLossError: before the weights are touched; batch and terms go to the log.
        """
        stage, around = self.stage, self.around
        around.watcher.stage_begins(stage.name, self.step, stage.steps)
        self.student.train()
        window, saved_at = Window(), self.step
        while self.step < stage.steps:
            seen, stop = self._advance(steps_before)
            around.watcher.stepped(stage.name, self.step)
            window.add(seen, stage.batch * stage.accumulate)
            if self.step % stage.log_every == 0 or self.step == stage.steps:
                self._log(window, steps_before, list(seen))
            if self.step % stage.checkpoint_every == 0 or stop:
                self.save(Position(stage_index, self.step, steps_before + self.step))
                saved_at = self.step
            if stop:
                return self.step == stage.steps
        if saved_at != self.step:
            self.save(Position(stage_index, self.step, steps_before + self.step))
        return True

    def _advance(self, steps_before: int) -> tuple[dict[str, float], bool]:
        """One optimizer step. Returns this step's loss parts, averaged over ranks, and whether to stop."""
        rate = self._learning_rate()
        self.gradients.zero()
        sums: dict[str, Tensor] = {}
        ids: list[str] = []
        for part in range(self.stage.accumulate):
            named, names = self._backward((steps_before + self.step) * self.stage.accumulate + part)
            ids.extend(names)
            for name, value in named.items():
                sums[name] = sums[name] + value if name in sums else value
        self.around.ranks.average_(self.gradients.flat)
        seen, stop = self._agree(sums)
        norm = float(self.gradients.norm())
        if not all(torch.isfinite(torch.tensor([norm, *seen.values()]))):
            self._refuse(seen | {"gradient_norm": norm}, ids, steps_before)
        self.gradients.clip(norm, self.stage.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.parameters, self.step)
        return seen | {"gradient_norm": norm}, stop

    def _backward(self, draw: int) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Forward and backward of the global batch number `draw`; its unweighted parts and sample ids."""
        stage, seed, device = self.stage, self.around.seed, self.around.device
        batch = self.source.batch_at(draw, self.around.ranks.rank, self.around.ranks.world)
        timestep_B = draws.timesteps(seed, batch.ids, draw, len(self.objective.schedule)).to(device)
        noise_BCHW = draws.noise(seed, batch.ids, draw, batch.latent_BCHW, stage.noise_offset).to(device)
        nudge_BCHW = draws.nudge(seed, batch.ids, draw, batch.latent_BCHW, stage.input_perturbation)
        nudge_BCHW = nudge_BCHW if nudge_BCHW is None else nudge_BCHW.to(device)
        batch = _batch_to(batch, device)
        if self.empty is not None:
            batch = draws.drop_captions(batch, self.empty, stage.caption_dropout, seed, draw)
        with _precision(stage.precision, device):
            parts = losses(self.student, self.objective, batch, noise_BCHW, timestep_B, nudge_BCHW)
        total = parts.total(stage.loss)
        (total / stage.accumulate).backward()
        named = {"loss": total, **parts.named(stage.loss.feature_mode)}
        return {name: value.detach() for name, value in named.items()}, batch.ids

    def _agree(self, sums: Mapping[str, Tensor]) -> tuple[dict[str, float], bool]:
        """Loss parts averaged over accumulation and ranks, and whether any rank was asked to stop."""
        values = torch.stack([*sums.values()]) / self.stage.accumulate
        stop = values.new_tensor([float(self.around.stopping.asked)])
        shared = torch.cat([values, stop])
        self.around.ranks.average_(shared)
        *means, asked = shared.tolist()
        return dict(zip(sums, means, strict=True)), asked > 0.0

    def _refuse(self, seen: dict[str, float], ids: list[str], steps_before: int) -> None:
        facts = {name: repr(value) for name, value in seen.items()}
        self.around.journal.note(steps_before + self.step, "non-finite loss", values=facts, ids=ids)
        bad = ", ".join(name for name, value in seen.items() if value != value or abs(value) == float("inf"))
        raise NonFiniteLossError(
            f"Stage '{self.stage.name}', step {self.step + 1}: {bad} not finite. The weights were not "
            "touched and the log names the samples. Lower the learning rate; the same command goes on from "
            "the last checkpoint."
        )

    def _learning_rate(self) -> float:
        stage = self.stage
        return stage.learning_rate * optim.learning_rate_share(
            self.step, steps=stage.steps, schedule=stage.schedule, warmup=stage.warmup, final=stage.final
        )

    def _log(self, window: Window, steps_before: int, names: list[str]) -> None:
        means, steps_per_s, samples_per_s = window.close(names)
        norm = means.pop("gradient_norm")
        moment = Moment(
            stage=self.stage.name,
            step=self.step,
            total=steps_before + self.step,
            losses=means,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            gradient_norm=norm,
            steps_per_s=steps_per_s,
            samples_per_s=samples_per_s,
            seconds_left=(self.stage.steps - self.step) / steps_per_s,
        )
        self.around.journal.write(moment)
        self.around.watcher.logged(moment)

    def weights_to_ship(self) -> dict[str, Tensor]:
        """The student's whole state dict, with averaged weights where there are any."""
        averaged = self.average.weights if self.average is not None else {}
        return {name: averaged.get(name, value).detach() for name, value in self.student.state_dict().items()}

    def save(self, position: Position) -> None:
        """Write a checkpoint (rank 0) while the other ranks wait."""
        if self.around.ranks.leads:
            checkpoint.save(Checkpoint(position, self._tensors()), self.around.steps_folder, self.stage.keep)
            self.around.journal.note(position.total, "saved")
        self.around.ranks.wait()

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint of this stage."""
        tensors = saved.tensors
        self.student.load_state_dict(dict(tensors["weights"]))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if self.average is not None:
                    self.average.weights[name].copy_(tensors["average"][name])
                if saved.position.step:
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(saved.position.step)),
                        "exp_avg": tensors["exp_avg"][name].to(parameter.device),
                        "exp_avg_sq": tensors["exp_avg_sq"][name].to(parameter.device),
                    }
        self.step = saved.position.step

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        groups = {"weights": self.student.state_dict()}
        if self.average is not None:
            groups["average"] = self.average.weights
        for moment in ("exp_avg", "exp_avg_sq"):
            groups[moment] = {
                name: self.optimizer.state[parameter][moment] for name, parameter in self.parameters.items()
            }
        return groups


def _precision(precision: str, device: torch.device) -> torch.autocast | nullcontext[None]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def _batch_to(batch: Batch, device: torch.device) -> Batch:
    return Batch(
        latent_BCHW=batch.latent_BCHW.to(device, torch.float32),
        context_BTC=batch.context_BTC.to(device, torch.float32),
        pooled_BC=batch.pooled_BC.to(device, torch.float32),
        time_ids_B6=batch.time_ids_B6.to(device, torch.float32),
        ids=batch.ids,
    )


def _caption_to(caption: Caption, device: torch.device) -> Caption:
    return Caption(caption.context_TC.to(device, torch.float32), caption.pooled_C.to(device, torch.float32))
