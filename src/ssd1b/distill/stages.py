"""A whole run: its stages one after the other, in a folder that says what it is.

    runs/<name>/recipe.json   the recipe as it was resolved
                log.jsonl     every logged step and event
                steps/        the newest checkpoints
                stages/       the finished student of every stage
                student/      the last stage's student, a complete diffusers folder
                losses.svg    the loss curves

Running the same recipe again goes on where the run stopped, or says that it is done. Does not know
where plans, models and batches come from: `Providers` finds them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ssd1b.base.errors import MissingFileError, RecipeError
from ssd1b.base.files import write_atomic
from ssd1b.base.seeds import seed_of
from ssd1b.distill import checkpoint, curves, lesson, preflight, recipe_file, student
from ssd1b.distill.checkpoint import Saved
from ssd1b.distill.journal import Journal, Silent, Watcher
from ssd1b.distill.journal import read as read_log
from ssd1b.distill.previews import Previews
from ssd1b.distill.ranks import Ranks
from ssd1b.distill.recipe import Recipe, Stage
from ssd1b.distill.step import Objective
from ssd1b.distill.student import Beside
from ssd1b.distill.trainer import Stopping, Surroundings, Trainer
from ssd1b.formats import card
from ssd1b.models.batch import BatchSource
from ssd1b.models.folder import load_unet
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.shape import shape_of

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

# Keys that may change between two starts of one run: they move no weight.
_HARMLESS = frozenset(
    {
        "checkpoint_every",
        "keep",
        "milestone_every",
        "log_every",
        "about",
        "parallel",
        "skip_non_finite",
        "prefetch",
        "track",
        "preview_every",
        "preview_prompts",
    }
)


@dataclass(frozen=True, slots=True)
class Providers:
    """Where names in a recipe lead: plans, complete diffusers folders, batch sources."""

    plan: Callable[[str], LayerPlan]
    model: Callable[[str], Path]
    source: Callable[[Recipe, Stage], BatchSource]


@dataclass(frozen=True, slots=True)
class Run:
    """A recipe being carried out in a folder."""

    recipe: Recipe
    folder: Path
    find: Providers
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    ranks: Ranks = field(default_factory=Ranks)
    watcher: Watcher = field(default_factory=Silent)
    stopping: Stopping = field(default_factory=Stopping)
    command: Sequence[str] = ()
    previews: Previews | None = None

    @property
    def student(self) -> Path:
        """The folder of the finished student."""
        return self.folder / "student"

    def stage_folder(self, index: int) -> Path:
        """The folder of a finished stage's student."""
        return self.folder / "stages" / f"{index + 1}-{self.recipe.stages[index].name}"


def carry_out(run: Run, *, accept_changes: bool = False) -> bool:
    """Train every stage that is not done and write the student; False if it was stopped before the end.

    Raises:
        RecipeError: the folder holds another recipe's run, and `accept_changes` was not given.
        DamagedFileError, DiskFullError, NonFiniteLossError, LayoutError: see checkpoint, trainer, preflight.
    """
    _settle_recipe(run, accept_changes)
    if is_done(run):
        _add_curves(run)
        run.watcher.said(f"{run.student} is done.")
        return True
    saved, complaints = checkpoint.newest(run.folder / "steps", run.ranks)
    first = saved.position.stage if saved else 0
    look = preflight.Look(run.find.plan, lambda name: preflight.shape_in(run.find.model(name)))
    preflight.check(run.recipe, first, look, run.ranks.world)
    if run.ranks.leads:
        checkpoint.tidy(run.folder / "steps")
    total = saved.position.total if saved else 0
    journal = Journal(run.folder / "log.jsonl" if run.ranks.leads else None, total)
    for complaint in complaints:
        run.watcher.said(f"{complaint} Going on from an older one.")
    if saved:
        run.watcher.said(f"Going on after step {total}.")
        journal.note(total, "resumed")
    for index in range(first, len(run.recipe.stages)):
        resume = saved if saved and saved.position.stage == index else None
        if not _train_stage(run, index, journal, resume):
            run.watcher.said("Stopped and saved; the same command goes on from here.")
            return False
    _add_curves(run)
    run.watcher.said(f"The student is in {run.student}.")
    return True


def is_done(run: Run) -> bool:
    """Whether the student of exactly this recipe is there."""
    try:
        manifest = json.loads((run.student / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(manifest.get("recipe_sha256") == _fingerprint(run.recipe))


def snapshot(run: Run, out: Path) -> int:
    """Write the newest checkpoint as a model folder, while training goes on elsewhere; its step in the run.

    Raises:
        MissingFileError: nothing was saved yet.
    """
    saved, _ = checkpoint.newest(run.folder / "steps", run.ranks)
    if saved is None:
        raise MissingFileError(f"{run.folder} has no checkpoint yet; wait for the first one.")
    stage = run.recipe.stages[saved.position.stage]
    weights = saved.read("weights") | (saved.read("average") if "average" in saved.groups else {})
    config = run.find.plan(stage.plan).unet_config()
    facts = {"run": run.recipe.name, "stage": stage.name, "step": saved.position.step, "plan": stage.plan}
    predicts = lesson.said_by(stage, *_beside(run, stage)).prediction
    beside = Beside(_parts(run), predicts)
    student.write_model(config, weights, beside, out, run.command, **facts)
    return saved.position.total


def _train_stage(run: Run, index: int, journal: Journal, saved: Saved | None) -> bool:
    stage = run.recipe.stages[index]
    teacher = _load(run, stage.teacher, stage).eval() if stage.teacher else None
    unet = _start(run, index, teacher).to(run.device)
    if stage.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if stage.compile:
        _compile(unet, *([teacher] if teacher is not None else []))
    around = Surroundings(
        steps_folder=run.folder / "steps",
        journal=journal,
        seed=run.recipe.seed,
        device=run.device,
        ranks=run.ranks,
        watcher=run.watcher,
        stopping=run.stopping,
        previews=run.previews,
    )
    objective = _objective(run, stage, teacher if stage.distils else None)
    trainer = Trainer(unet, objective, run.find.source(run.recipe, stage), stage, around)
    if saved:
        trainer.restore(saved)
    finished = trainer.run(index, sum(earlier.steps for earlier in run.recipe.stages[:index]))
    if finished:
        weights = trainer.weights_to_ship()
        with run.ranks.together():
            if run.ranks.leads:
                _write(run, index, weights)
    return finished


def _objective(run: Run, stage: Stage, teacher: UNet2DConditionModel | None) -> Objective:
    if teacher is not None:
        teacher.requires_grad_(False)
    said = lesson.said_by(stage, *_beside(run, stage))
    here = replace(said, schedule=said.schedule.to(run.device))
    return lesson.objective(stage, run.find.plan(stage.plan), here, teacher)


def _beside(run: Run, stage: Stage) -> tuple[Path | None, Path | None]:
    """The folders whose schedulers speak for the teacher and for the student."""
    return run.find.model(stage.teacher) if stage.teacher else None, _parts(run)


def _start(run: Run, index: int, teacher: UNet2DConditionModel | None) -> UNet2DConditionModel:
    stage = run.recipe.stages[index]
    plan = run.find.plan(stage.plan)
    if stage.start == "scratch":
        return student.from_scratch(plan, seed_of(run.recipe.seed, stage.name))
    if stage.start in ("previous", "grown"):
        before = run.find.plan(run.recipe.stages[index - 1].plan)
        earlier = load_unet(run.stage_folder(index - 1), device=torch.device("cpu"), dtype=torch.float32)
        if stage.start == "grown":
            seed = seed_of(run.recipe.seed, stage.name)
            return student.grown(plan, before, earlier.state_dict(), seed)
        return student.carved_further(plan, before, earlier.state_dict())
    origin = teacher if stage.start == "teacher" else _load(run, stage.start, stage)
    assert origin is not None, "the recipe promised a teacher"
    state = origin.state_dict()
    shape = shape_of(dict(origin.config))
    name = str(stage.teacher) if stage.start == "teacher" else stage.start
    student.check_origin(plan, shape, stage.name, name)
    return student.from_state(plan, state) if shape == plan.shape else student.carved(plan, state)


def _load(run: Run, name: str, stage: Stage) -> UNet2DConditionModel:
    dtype = torch.bfloat16 if stage.precision == "bf16" else torch.float32
    return load_unet(run.find.model(name), device=run.device, dtype=dtype)


def _compile(*unets: UNet2DConditionModel) -> None:
    """Compile transformer blocks, once per shape of block; taps listen outside of them, names stay."""
    for unet in unets:
        unet.compile_repeated_blocks()


def _write(run: Run, index: int, weights: Mapping[str, Tensor]) -> None:
    stage = run.recipe.stages[index]
    config = run.find.plan(stage.plan).unet_config()
    last = index == len(run.recipe.stages) - 1
    predicts = lesson.said_by(stage, *_beside(run, stage)).prediction
    student.write_model(
        config,
        weights,
        Beside(_parts(run), predicts, _card(run) if last else ""),
        run.student if last else run.stage_folder(index),
        run.command,
        run=run.recipe.name,
        stage=stage.name,
        plan=stage.plan,
        recipe_sha256=_fingerprint(run.recipe) if last else "",
    )


def _add_curves(run: Run) -> None:
    """Draw the run's losses and put the picture beside the student, unless it is there."""
    if run.ranks.leads and not (run.student / "losses.svg").is_file():
        write_atomic(run.student / "losses.svg", curves.draw(run.folder).read_bytes())
    run.ranks.wait()


def _card(run: Run) -> str:
    """The finished student's model card, from the recipe and the last losses of the log."""
    moments = [line for line in read_log(run.folder / "log.jsonl") if isinstance(line.get("losses"), dict)]
    last = cast(dict[str, float], moments[-1]["losses"]) if moments else {}
    facts = card.Facts(
        name=run.recipe.name,
        plan=run.find.plan(run.recipe.stages[-1].plan),
        stages=[_told(stage) for stage in run.recipe.stages],
        data=f"source `{run.recipe.source}`, seed {run.recipe.seed}.",
        last_losses={name: value for name, value in last.items() if "/" not in name},
    )
    return card.card(facts)


def _told(stage: Stage) -> dict[str, object]:
    weights = stage.loss.model_dump(exclude={"feature_mode"})
    words = [f"{value} {name}" for name, value in weights.items() if value] if stage.distils else ["task"]
    batch = stage.batch * stage.accumulate
    return stage.model_dump(include={"name", "teacher", "steps", "learning_rate"}) | {
        "batch": batch,
        "losses": ", ".join(words),
    }


def _parts(run: Run) -> Path | None:
    return run.find.model(run.recipe.parts_model) if run.recipe.parts_model else None


def _fingerprint(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(_weighty(recipe), sort_keys=True).encode()).hexdigest()


def _weighty(recipe: Recipe) -> dict[str, object]:
    """The recipe without the keys that change no weight."""
    tree = recipe.model_dump(mode="json")
    stages = [{k: v for k, v in stage.items() if k not in _HARMLESS} for stage in tree.pop("stages")]
    return {key: value for key, value in tree.items() if key not in _HARMLESS} | {"stages": stages}


def check_same_recipe(run: Run) -> None:
    """See that the run's folder is new or holds a run of this recipe.

    Raises:
        RecipeError: it holds another's; the first difference is named.
    """
    path = run.folder / "recipe.json"
    if path.exists():
        there = recipe_file.parse(json.loads(path.read_text(encoding="utf-8")), str(path))
        if _weighty(there) != _weighty(run.recipe):
            raise RecipeError(
                f"{run.folder} holds a run of another recipe ({_difference(there, run.recipe)}). Give "
                "another --out, or --accept-changes to go on from its last checkpoint with the new recipe."
            )


def _settle_recipe(run: Run, accept_changes: bool) -> None:
    """Write the recipe into the run's folder, or check that it is the one that is there."""
    if not accept_changes:
        check_same_recipe(run)
    if run.ranks.leads:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(run.folder / "recipe.json", run.recipe.model_dump_json(indent=1) + "\n")
    run.ranks.wait()


def _difference(left: Recipe, right: Recipe) -> str:
    a, b = _weighty(left), _weighty(right)
    for key in a:
        if key != "stages" and a[key] != b[key]:
            return f"{key}: {a[key]} there, {b[key]} here"
    for one, other in zip(left.stages, right.stages, strict=False):
        for key, value in one.model_dump().items():
            if key not in _HARMLESS and value != getattr(other, key) and key != "loss":
                return f"stage {one.name}, {key}: {value} there, {getattr(other, key)} here"
    return "other stages or loss weights"
