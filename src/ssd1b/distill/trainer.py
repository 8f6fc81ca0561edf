"""The loop: batches in, weights moved, everything that must survive saved.

Knows one stage of training: a student, an objective, a batch source. Does not know where any of them
came from, how a student is carved or written as a model, nor how progress is drawn.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from ssd1b.base.crash import crash_point
from ssd1b.base.errors import UserError
from ssd1b.distill import checkpoint, draws, optim, previews, shards
from ssd1b.distill.ahead import Ahead
from ssd1b.distill.checkpoint import Keeping, Position, Saved
from ssd1b.distill.journal import Journal, Moment, Silent, Watcher, Window
from ssd1b.distill.previews import Previews
from ssd1b.distill.ranks import Ranks
from ssd1b.distill.recipe import Stage
from ssd1b.distill.step import Objective, losses, precision
from ssd1b.distill.update import GradientError, updater
from ssd1b.models.batch import Batch, BatchSource, Caption


class NonFiniteLossError(UserError):
    """The loss or gradient is not a number, more often than the recipe allows; the weights are untouched."""


@dataclass(frozen=True, slots=True)
class Fed:
    """One batch on the device, with the noise and the timesteps drawn for it."""

    batch: Batch
    noise_BCHW: Tensor
    timestep_B: Tensor
    nudge_BCHW: Tensor | None = None


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
    previews: Previews | None = None


class Trainer:
    """One stage being trained. `step` steps are done, `skipped` of them without moving the weights.

    `student` holds the latest weights; with `parallel: fsdp2` it is laid in shares over the processes.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        source: BatchSource,
        stage: Stage,
        around: Surroundings,
    ) -> None:
        """Freeze what the stage does not train and make room for gradients and the optimizer's moments."""
        self.student, self.objective, self.source = student, objective, source
        self.stage, self.around = stage, around
        self.sharded = stage.parallel == "fsdp2" and shards.shard(student, around.ranks, around.device)
        self.parameters = optim.trainable(student, stage.trainable)
        if not self.parameters:
            raise UserError(f"Stage '{stage.name}': no parameter's name has one of {list(stage.trainable)}.")
        self.updater = updater(self.parameters, stage, around.ranks, sharded=self.sharded)
        self.average = optim.Average(self.parameters, stage.ema) if stage.ema else None
        self.empty = _caption_to(source.empty(), around.device) if stage.caption_dropout else None
        self.step = self.skipped = 0

    def run(self, stage_index: int, steps_before: int) -> bool:
        """Train to the stage's last step; False if stopped before it. Either way everything is saved.

        Raises:
            NonFiniteLossError: before the weights are touched; samples and terms go to the log.
        """
        stage, around = self.stage, self.around
        around.watcher.stage_begins(stage.name, self.step, stage.steps)
        self.student.train()
        last = (steps_before + stage.steps) * stage.accumulate - 1
        with Ahead(self._feed, last, ahead=stage.prefetch) as feed:
            return self._train(stage_index, steps_before, feed)

    def _train(self, stage_index: int, steps_before: int, feed: Ahead[Fed]) -> bool:
        stage, around = self.stage, self.around
        window = Window()
        while self.step < stage.steps:
            seen, stop = self._advance(steps_before, feed)
            crash_point("step")
            around.watcher.stepped(stage.name, self.step)
            if seen:
                window.add(seen, stage.batch * stage.accumulate)
            if window.names and (self.step % stage.log_every == 0 or self.step == stage.steps):
                self._log(window, steps_before)
            if self._is_due(stage.preview_every) and not stop:
                self._preview(steps_before + self.step)
            if stop or self.step == stage.steps or self._is_due(stage.checkpoint_every) or self._is_milestone:
                self.save(Position(stage_index, self.step, steps_before + self.step, self.skipped))
            if stop:
                return self.step == stage.steps
        return True

    def _preview(self, total: int) -> None:
        """Let what is learned so far be drawn, before it is saved: a run killed meanwhile draws it again."""
        if self.around.previews is None:
            return
        teacher = self.objective.teacher
        unets = (self.student, teacher) if teacher is not None else (self.student,)
        with previews.at_rest(*unets), precision(self.stage.precision, self.around.device):
            self.around.previews.draw(self.student, self.objective, total)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    @property
    def _is_milestone(self) -> bool:
        return self._is_due(self.stage.milestone_every)

    def _advance(self, steps_before: int, feed: Ahead[Fed]) -> tuple[dict[str, float], bool]:
        """One step. Returns its loss parts, averaged over ranks (none if skipped), and whether to stop."""
        self.updater.begin(self._learning_rate())
        sums: dict[str, Tensor] = {}
        parts: list[tuple[tuple[str, ...], Tensor]] = []
        for part in range(self.stage.accumulate):
            fed = feed.at((steps_before + self.step) * self.stage.accumulate + part)
            named, total = self._forward(fed)
            parts.append((fed.batch.ids, named["loss"]))
            for name, value in named.items():
                sums[name] = sums[name] + value if name in sums else value
            if self.updater.early:  # weights move in the backward pass: the last moment to look at the loss
                seen, stop = self._agree(sums)
                if not all(map(math.isfinite, seen.values())):
                    self._skip_or_refuse(seen, parts, steps_before)
                    return {}, stop
            self._backward(total, fed, steps_before)
        norm = self.updater.norm()
        seen, stop = self._agree(sums)
        seen["gradient_norm"] = norm
        if not all(map(math.isfinite, seen.values())):
            self._skip_or_refuse(seen, parts, steps_before)
            return {}, stop
        self.updater.finish(norm, self.stage.clip)
        self.step += 1
        if self.average is not None:
            self.average.update(self.parameters, self.step)
        return seen, stop

    def _feed(self, draw: int) -> Fed:
        """The global batch number `draw` with its randomness, on the device: a pure function of `draw`."""
        stage, seed, device = self.stage, self.around.seed, self.around.device
        batch = self.source.batch_at(draw, self.around.ranks.rank, self.around.ranks.world)
        timestep_B = draws.timesteps(seed, batch.ids, draw, len(self.objective.schedule)).to(device)
        noise_BCHW = draws.noise(seed, batch.ids, draw, batch.latent_BCHW, stage.noise_offset).to(device)
        nudge_BCHW = draws.nudge(seed, batch.ids, draw, batch.latent_BCHW, stage.input_perturbation)
        nudge_BCHW = nudge_BCHW if nudge_BCHW is None else nudge_BCHW.to(device)
        batch = _batch_to(batch, device)
        if self.empty is not None:
            batch = draws.drop_captions(batch, self.empty, stage.caption_dropout, seed, draw)
        return Fed(batch, noise_BCHW, timestep_B, nudge_BCHW)

    def _forward(self, fed: Fed) -> tuple[dict[str, Tensor], Tensor]:
        """The unweighted loss parts of one batch by name, and their weighted sum, to go backward from."""
        with precision(self.stage.precision, self.around.device):
            given = (fed.batch, fed.noise_BCHW, fed.timestep_B, fed.nudge_BCHW)
            parts = losses(self.student, self.objective, *given)
        total = parts.total(self.stage.loss)
        named = {"loss": total, **parts.named(self.stage.loss.feature_mode)}
        return {name: value.detach() for name, value in named.items()}, total

    def _backward(self, total: Tensor, fed: Fed, steps_before: int) -> None:
        """Gradients of one batch.

        Raises:
            NonFiniteLossError: weights that move meanwhile met a gradient that is not finite; it cannot be
                skipped, as others have moved.
        """
        try:
            (total / self.stage.accumulate).backward()
        except GradientError as error:
            self.around.journal.note(
                steps_before + self.step,
                "non-finite loss",
                values={f"gradient/{error.name}": "nan"},
                ids=list(fed.batch.ids),
            )
            raise NonFiniteLossError(
                f"Stage '{self.stage.name}', step {self.step + 1}: gradient/{error.name} not finite. Some"
                " weights had moved and are thrown away, and the log names the samples. Lower the learning"
                " rate; the same command goes on from the last checkpoint."
            ) from error

    def _agree(self, sums: Mapping[str, Tensor]) -> tuple[dict[str, float], bool]:
        """Loss parts averaged over accumulation and ranks, and whether any rank was asked to stop."""
        values = torch.stack([*sums.values()]) / self.stage.accumulate
        stop = values.new_tensor([float(self.around.stopping.asked)])
        shared = torch.cat([values, stop])
        self.around.ranks.average_(shared)
        *means, asked = shared.tolist()
        return dict(zip(sums, means, strict=True)), asked > 0.0

    def _skip_or_refuse(
        self, seen: dict[str, float], parts: list[tuple[tuple[str, ...], Tensor]], steps_before: int
    ) -> None:
        """Write down the step whose numbers are not finite; then count it as skipped, or raise.

        `suspects` are the samples of those batches, by process and accumulation, whose own loss is at fault.
        """
        stage, ranks = self.stage, self.around.ranks
        self.skipped += 1
        passed = self.skipped <= stage.skip_non_finite
        mine = [(name, bool(torch.isfinite(loss))) for names, loss in parts for name in names]
        samples = [sample for share in ranks.gather(mine) for sample in share]
        self.around.journal.note(
            steps_before + self.step + passed,
            "step skipped" if passed else "non-finite loss",
            values={name: repr(value) for name, value in seen.items()},
            ids=[name for name, _ in samples],
            suspects=[name for name, finite in samples if not finite],
        )
        bad = ", ".join(name for name, value in seen.items() if not math.isfinite(value))
        if not passed:
            raise NonFiniteLossError(
                f"Stage '{stage.name}', step {self.step + 1}: {bad} not finite, and skip_non_finite lets"
                f" {stage.skip_non_finite} such steps pass. The weights were not touched and log.jsonl names"
                " the samples. Lower the learning rate or raise skip_non_finite; the same command goes on"
                " from the last checkpoint."
            )
        self.around.watcher.said(
            f"Step {self.step + 1} was skipped: {bad} not finite ({self.skipped} of {stage.skip_non_finite})."
        )
        self.step += 1

    def _learning_rate(self) -> float:
        stage = self.stage
        return stage.learning_rate * optim.learning_rate_share(
            self.step, steps=stage.steps, schedule=stage.schedule, warmup=stage.warmup, final=stage.final
        )

    def _log(self, window: Window, steps_before: int) -> None:
        means, steps_per_s, samples_per_s = window.close(window.names)
        norm = means.pop("gradient_norm")
        moment = Moment(
            stage=self.stage.name,
            step=self.step,
            total=steps_before + self.step,
            losses=means,
            learning_rate=self.updater.rate,
            gradient_norm=norm,
            steps_per_s=steps_per_s,
            samples_per_s=samples_per_s,
            seconds_left=(self.stage.steps - self.step) / steps_per_s,
        )
        self.around.journal.write(moment)
        self.around.watcher.logged(moment)

    def weights_to_ship(self) -> dict[str, Tensor]:
        """The student's whole state dict, with averaged weights where there are any.

        All processes take part; of a sharded student only rank 0 gets it, on its processor.
        """
        averaged = self.average.weights if self.average is not None else {}
        state = {name: averaged.get(name, value) for name, value in self.student.state_dict().items()}
        if not self.sharded:
            return {name: value.detach() for name, value in state.items()}
        shipped: dict[str, Tensor] = {}
        for name, value in state.items():
            gathered = shards.whole(value.detach())
            if self.around.ranks.leads:
                shipped[name] = gathered.cpu()
        return shipped

    def save(self, position: Position) -> None:
        """Write a checkpoint, every process its share."""
        keeping = Keeping(self.stage.keep, self._is_milestone)
        ranks = self.around.ranks
        checkpoint.save(position, self._groups(), self.around.steps_folder, keeping, ranks)
        self.around.journal.note(position.total, "saved")

    def restore(self, saved: Saved) -> None:
        """Go on from a checkpoint of this stage, written by any number of processes."""
        self.step, self.skipped = saved.position.step, saved.position.skipped
        if self.step > self.skipped:
            self.updater.prepare(self.step - self.skipped)
        for group, tensors in self._groups().items():
            if group in saved.groups:
                saved.fill(group, tensors, self.around.ranks)
        if self.average is not None and "average" not in saved.groups:  # the recipe asks for one only now
            self.average.restart(self.parameters)

    def _groups(self) -> dict[str, Mapping[str, Tensor]]:
        """All that training changes and a checkpoint holds, by group and name."""
        groups: dict[str, Mapping[str, Tensor]] = {"weights": self.student.state_dict()}
        if self.average is not None:
            groups["average"] = self.average.weights
        return groups | {group: held for group, held in self.updater.moments().items() if held}


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
