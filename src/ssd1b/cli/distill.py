"""`ssd1b distill`: train what a recipe says, from start to student.

Wires plans, models, batches, devices and the progress display to the trainer; knows none of their
insides.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd1b.base.errors import RecipeError, UserError
from ssd1b.base.files import cache_folder
from ssd1b.cli.show import say

if TYPE_CHECKING:
    from ssd1b.distill.previews import Previews
    from ssd1b.distill.recipe import Recipe, Stage
    from ssd1b.distill.stages import Providers, Run
    from ssd1b.models.batch import BatchSource


def command(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a key: --set stages.0.steps=100. Stages by number, name or *."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; runs/NAME if not given.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; chosen if not given.")] = None,
    accept_changes: Annotated[
        bool, typer.Option(help="Go on with a run although its recipe has changed.")
    ] = False,
    snapshot: Annotated[
        Path | None, typer.Option(help="Only write the newest checkpoint as a model folder here.")
    ] = None,
    curves: Annotated[bool, typer.Option("--curves", help="Only draw the loss curves so far.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check it and say what it will take; nothing is loaded.")
    ] = False,
    n_ranks: Annotated[int, typer.Option("--ranks", min=1, help="With --dry-run: on so many devices.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="With --dry-run: one JSON object.")] = False,
) -> None:
    """Train what a recipe says. The same command again goes on where the run stopped.

    Examples:
        ssd1b distill mini-ssd

        ssd1b distill mine.yaml --set stages.0.learning_rate=2e-4 --out runs/hot

        torchrun --standalone --nproc-per-node 2 -m ssd1b distill mini-sdxl

        ssd1b distill mini-ssd --dry-run --ranks 2

        ssd1b distill mini-sdxl --snapshot models/halfway
    """
    from ssd1b.distill import recipe_file

    plain = recipe_file.read(recipe_file.find(recipe), settings or [])
    folder = out or Path("runs") / plain.name
    if snapshot is not None:
        _snapshot(plain, folder, snapshot)
    elif curves:
        _draw_curves(folder)
    elif dry_run:
        _dry_run(plain, folder, device, n_ranks, as_json=as_json)
    elif not _train(plain, folder, device, accept_changes):
        raise typer.Exit(0)


def _train(recipe: Recipe, folder: Path, device: str | None, accept_changes: bool) -> bool:
    from ssd1b.cli.trackers import Several, watchers
    from ssd1b.cli.training_bar import TrainingBar
    from ssd1b.distill.journal import Silent
    from ssd1b.distill.ranks import own_device, ranks
    from ssd1b.distill.stages import Run, carry_out
    from ssd1b.distill.trainer import stopping_on_signals
    from ssd1b.models.device import choose

    place = own_device(choose(device, "float32").device)
    with ranks(place) as processes, stopping_on_signals() as stopping:
        watcher = Several([TrainingBar(), *watchers(recipe, folder)]) if processes.leads else Silent()
        run = Run(recipe, folder, providers(), place, processes, watcher, stopping, tuple(sys.argv))
        run = replace(run, previews=_previews(run))
        with watcher:
            return carry_out(run, accept_changes=accept_changes)


def _previews(run: Run) -> Previews | None:
    """Who draws the grids of a run; nobody where its recipe asks for none."""
    if not any(stage.preview_every for stage in run.recipe.stages):
        return None
    from ssd1b.evaluate.previews import Grids, own_prompts

    shape = run.find.plan(run.recipe.stages[0].plan).shape
    prompts = run.recipe.preview_prompts or own_prompts(shape)
    parts = run.find.model(str(run.recipe.parts_model))
    return Grids(parts, run.folder, prompts, run.ranks, run.device, run.watcher)


def _dry_run(recipe: Recipe, folder: Path, device: str | None, n_ranks: int, *, as_json: bool) -> None:
    from ssd1b.cli import dry_run
    from ssd1b.distill.stages import Run
    from ssd1b.models.device import choose

    run = Run(recipe, folder, providers(), choose(device, "float32").device)
    if not dry_run.report(run, n_ranks, as_json=as_json):
        raise typer.Exit(2)


def _snapshot(recipe: Recipe, folder: Path, out: Path) -> None:
    from ssd1b.distill.stages import Run, snapshot

    run = Run(recipe, folder, providers(), command=tuple(sys.argv))
    say(f"{out} is step {snapshot(run, out)} of {folder}.")


def _draw_curves(folder: Path) -> None:
    from ssd1b.distill.curves import draw

    say(f"{draw(folder)} shows the losses of {folder}.")


def providers() -> Providers:
    """What names in recipes lead to in this program."""
    from ssd1b.distill.stages import Providers
    from ssd1b.formats.plan_file import find_plan

    return Providers(plan=find_plan, model=model_folder, source=batch_source)


def model_folder(name: str) -> Path:
    """The complete diffusers folder a recipe means by a model's name; downloaded if it is on the hub."""
    if (Path(name) / "model_index.json").is_file():
        return Path(name)
    from ssd1b.mini import embedded

    if name in (*embedded.NAMES, embedded.PARTS):
        return embedded.folder(name)
    from ssd1b.generate.load import find

    return find(name)


def batch_source(recipe: Recipe, stage: Stage) -> BatchSource:
    """The source that a recipe's `source:` names, told the stage's `batch` and `data`.

    What the mini source makes once it keeps in the cache folder; `ssd1b data` prepares pictures.
    """
    check_source(recipe)
    if recipe.source == "images":
        return _images(recipe, str(recipe.parts_model), stage)
    from ssd1b.mini.dataset import MiniBatches, MiniData

    parts = model_folder(str(recipe.parts_model))
    data = MiniData.parse(stage.data)
    return MiniBatches(parts, data, stage.batch, recipe.seed, cache_folder() / "mini")


def check_source(recipe: Recipe) -> None:
    """See that there is such a source and that it has what it needs.

    Raises:
        RecipeError: there is none, or something is missing.
    """
    if recipe.source not in ("mini", "images"):
        raise RecipeError(f"There is no batch source '{recipe.source}'; there are 'mini' and 'images'.")
    if recipe.parts_model is None:
        raise RecipeError(
            f"The {recipe.source} source needs `parts:`, the model whose VAE and text encoders it uses."
        )


def _images(recipe: Recipe, parts: str, stage: Stage) -> BatchSource:
    from ssd1b.data import needed

    needed("pyarrow", "fsspec")
    from ssd1b.data.images import ImageBatches, ImageData

    data = ImageData.parse(stage.data)  # before a model is fetched
    return ImageBatches(model_folder(parts), data, stage.batch, recipe.seed)


if __name__ == "__main__":
    try:
        typer.run(command)
    except UserError as error:
        say(str(error))
        sys.exit(2)
