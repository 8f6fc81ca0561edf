"""`ssd1b demo`: the whole story in ten minutes. Carve a student, distil it, compare.

    demo/carved/   mini-ssd as the plan cuts it from mini-sdxl
         run/      a short distillation of it, by the recipe mini-demo
         report/   teacher, carved, distilled and shipped student side by side

Calls the verbs one after the other; what is finished is not done again. Knows none of their insides.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd1b.base.errors import RequestError, UserError
from ssd1b.cli import show

if TYPE_CHECKING:
    from ssd1b.distill.recipe import Recipe

TEACHER, SHIPPED, PLAN = "mini-sdxl", "mini-ssd", "mini-ssd"
RECIPE, RECIPE_MINUTES = "mini-demo", 4.0
PROMPTS, ROUNDS = 96, 3


@dataclass(frozen=True, slots=True)
class Places:
    """Where the demo's parts lie."""

    out: Path

    @property
    def carved(self) -> Path:
        """The student without training."""
        return self.out / "carved"

    @property
    def run(self) -> Path:
        """The short distillation."""
        return self.out / "run"

    @property
    def report(self) -> Path:
        """The comparison."""
        return self.out / "report"


def command(
    out: Annotated[Path, typer.Option(help="The folder for everything the demo makes.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(help="About how long to distil, on two cores.")] = RECIPE_MINUTES,
    prompts: Annotated[int, typer.Option(help="How many prompts each model is judged by.")] = PROMPTS,
    recipe: Annotated[str, typer.Option(help="The recipe of the distillation.")] = RECIPE,
) -> None:
    """See it all: carve a student from the miniature teacher, distil it for a few minutes, compare.

    Takes about ten minutes on two cores. Ctrl-C stops; the same command goes on.

    Examples:
        ssd1b demo

        ssd1b demo --out my-demo --minutes 2
    """
    if not 0 < minutes <= 24 * 60:
        raise RequestError(f"--minutes {minutes:g} is not a time to distil. Give minutes above 0, such as 4.")
    places = Places(out)
    show.say(f"1 of 3  Carve {PLAN} from {TEACHER}: the layers its plan keeps, copied.")
    carve(places.carved)
    show.say("2 of 3  Distil: the carved student learns from its teacher's layers.")
    distil(places.run, recipe, minutes)
    show.say("3 of 3  Compare: the same prompts, the same noise, the scene reader as judge.")
    compare(places, prompts)


def carve(out: Path) -> None:
    """Carve the student, unless it is there."""
    from ssd1b.cli.carve import carve as carve_folder
    from ssd1b.generate.load import find
    from ssd1b.plan import catalog

    if (out / "model_index.json").is_file():
        show.say(f"        {out} is there.")
        return
    with show.counting_bytes("carving") as reached:
        carve_folder(find(TEACHER), catalog.find(PLAN), out, reached)


def distil(run: Path, recipe: str, minutes: float) -> None:
    """Run the recipe in a process of its own, on two ranks where there are two cores.

    Raises:
        UserError: the training ended with an error; what it said stands above.
    """
    from ssd1b.cli.processes import run_ranks
    from ssd1b.models.device import choose

    words = [sys.executable, "-m", "ssd1b", "distill", recipe, "--out", str(run)]
    for number, steps in enumerate(_steps(recipe, minutes)):
        words += ["--set", f"stages.{number}.steps={steps}"]
    ranks = 2 if choose().device.type == "cpu" and _cores() > 1 else 1
    status = run_ranks(words, ranks, max(1, _cores() // ranks))
    if status or not (run / "student" / "model_index.json").is_file():
        raise UserError(
            f"The distillation stopped before its end (status {status}); the lines above say why. Run the"
            f" same command again to go on, or remove {run} to begin anew."
        )


def compare(places: Places, prompts: int) -> None:
    """Compare teacher, carved, distilled and shipped student; print the table and the report's path."""
    from ssd1b.cli import compare as verb

    models = [TEACHER, f"carved={places.carved}", f"distilled={places.run / 'student'}"]
    models += [SHIPPED] if _is_shipped() else []
    effort = verb.Effort(prompts=prompts, rounds=ROUNDS)
    comparison = verb.compare(
        verb.load_contenders(models, None), effort, "From SDXL's layout to SSD-1B's, in miniature"
    )
    path = verb.write(comparison, places.report)
    verb.print_table(comparison)
    show.stdout().print(f"The report: {path.resolve()}", markup=False, soft_wrap=True)


def _is_shipped() -> bool:
    """Whether this installation carries a finished student; a source tree in the making may not."""
    from ssd1b.base.errors import MissingFileError
    from ssd1b.mini import embedded

    try:
        embedded.folder(SHIPPED)
    except MissingFileError:
        return False
    return True


def _steps(recipe: str, minutes: float) -> list[int]:
    """The steps of each stage: the recipe's own, in proportion to the time wanted."""
    share = minutes / RECIPE_MINUTES
    return [max(stage.warmup + 1, round(stage.steps * share)) for stage in _recipe(recipe).stages]


def _recipe(name: str) -> Recipe:
    from ssd1b.distill import recipe_file

    return recipe_file.read(recipe_file.find(name), [])


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
