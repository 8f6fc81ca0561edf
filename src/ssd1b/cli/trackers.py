"""Other watchers of a run: TensorBoard, Weights & Biases, trackio, and several at once.

Each takes what the trainer logs to where people look at it. Knows those packages' calls, imported only when
they are asked for; does not know what a loss means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ssd1b.base.errors import RecipeError
from ssd1b.distill.journal import Silent

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from ssd1b.distill.journal import Moment, Watcher
    from ssd1b.distill.recipe import Recipe

NAMES = ("tensorboard", "wandb", "trackio")


def watchers(recipe: Recipe, folder: Path) -> list[Watcher]:
    """The trackers that a recipe asks for, ready to write.

    Raises:
        RecipeError: one is not installed; how to install it is said.
    """
    made: Mapping[str, Callable[[], Watcher]] = {
        "tensorboard": lambda: TensorBoard(folder / "tensorboard"),
        "wandb": lambda: Hosted("wandb", recipe, folder),
        "trackio": lambda: Hosted("trackio", recipe, folder),
    }
    check(recipe)
    return [made[name]() for name in recipe.track]


def check(recipe: Recipe) -> None:
    """See that every tracker a recipe asks for is installed.

    Raises:
        RecipeError: one is not.
    """
    for name in recipe.track:
        try:
            import_module(name)
        except ImportError:
            raise RecipeError(
                f"The recipe tracks with '{name}', which is not installed. Install it (pip install"
                f" {name}), or take it out of `track:`."
            ) from None


def numbers(moment: Moment) -> dict[str, float]:
    """What is drawn of a logged step: every loss under its name, the rate, the gradient, the speed."""
    losses = {name if "/" in name else f"loss/{name}": value for name, value in moment.losses.items()}
    return losses | {
        "train/learning_rate": moment.learning_rate,
        "train/gradient_norm": moment.gradient_norm,
        "train/steps_per_s": moment.steps_per_s,
        "train/samples_per_s": moment.samples_per_s,
    }


class TensorBoard(Silent):
    """Event files in a run's folder. A resumed run hides what was drawn after the step it resumes from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def __exit__(self, *_error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def logged(self, moment: Moment) -> None:
        """Write every number at the run's step."""
        writer = self._writing(moment.total)
        for name, value in numbers(moment).items():
            writer.add_scalar(name, value, moment.total)

    def pictured(self, path: Path, total: int) -> None:
        """Write the grid at the run's step."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as grid:
            pixels_HWC = np.asarray(grid.convert("RGB"))
        self._writing(total).add_image("previews", pixels_HWC, total, dataformats="HWC")

    def _writing(self, total: int) -> SummaryWriter:
        """The writer, opened at the first thing there is to write."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=total)
        writer: SummaryWriter = self._writer
        return writer


class Hosted(Silent):
    """Weights & Biases, or trackio, which has the same three calls."""

    def __init__(self, package: str, recipe: Recipe, folder: Path) -> None:
        self._package, self._recipe, self._folder = package, recipe, folder
        self._module: Any = None

    def __enter__(self) -> Self:
        self._module = import_module(self._package)
        config = self._recipe.model_dump(mode="json")
        self._module.init(project="ssd1b", name=self._folder.name, config=config, resume="allow")
        return self

    def __exit__(self, *_error: object) -> None:
        self._module.finish()

    def logged(self, moment: Moment) -> None:
        """Send every number at the run's step."""
        self._module.log(numbers(moment), step=moment.total)

    def pictured(self, path: Path, total: int) -> None:
        """Send the grid at the run's step."""
        self._module.log({"previews": self._module.Image(str(path))}, step=total)


class Several:
    """Watchers who all see the same."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = watchers
        self._open = ExitStack()

    def __enter__(self) -> Self:
        for watcher in self._watchers:
            if isinstance(watcher, AbstractContextManager):
                self._open.enter_context(watcher)
        return self

    def __exit__(self, *_error: object) -> None:
        self._open.close()

    def stage_begins(self, stage: str, step: int, steps: int) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.stage_begins(stage, step, steps)

    def stepped(self, stage: str, step: int) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.stepped(stage, step)

    def logged(self, moment: Moment) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.logged(moment)

    def said(self, sentence: str) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.said(sentence)

    def pictured(self, path: Path, total: int) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.pictured(path, total)
