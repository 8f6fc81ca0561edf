"""`ssd1b compare`: two or more models side by side, in one report.

Wires models, prompts, the scene reader, the stop-watch and the page together; knows none of their insides.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd1b.base.errors import RequestError
from ssd1b.base.units import human_bytes, human_count, human_flops, human_seconds
from ssd1b.cli import show

if TYPE_CHECKING:
    from ssd1b.evaluate.comparison import Comparison, Entry, Speed
    from ssd1b.evaluate.judging import Answer, Examiner, Settings
    from ssd1b.evaluate.prompts import Prompt
    from ssd1b.evaluate.report import Contender, Findings

QUICK_PROMPTS, QUICK_ROUNDS = 96, 3


@dataclass(frozen=True, slots=True)
class Effort:
    """How thorough a comparison is; None leaves the choice to the first model."""

    prompts: int | None = None
    rounds: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    quick: bool = False


def command(
    models: Annotated[
        list[str],
        typer.Argument(help="Two or more models, the teacher first; LABEL=MODEL shows one by another name."),
    ],
    out: Annotated[Path, typer.Option(help="The folder for report.html, report.md and report.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    title: Annotated[str, typer.Option(help="The report's title.")] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help=f"{QUICK_PROMPTS} prompts and fewer rounds instead of all.")
    ] = False,
    prompts: Annotated[int | None, typer.Option(help="So many prompts, evenly over the kinds.")] = None,
    run: Annotated[Path | None, typer.Option(help="The training run of the last model.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps, of all models.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale, of all models.")] = None,
    seed: Annotated[int, typer.Option(help="Another starting noise for every prompt.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; chosen if not given.")] = None,
) -> None:
    """Put models side by side: pictures from the same noise, size, speed, scores, losses, plans.

    Mini models are judged by the scene reader; models for photographs are measured and shown. The report is
    one file that needs no network.

    Examples:
        ssd1b compare mini-sdxl mini-ssd --out report

        ssd1b compare mini-sdxl carved=models/carved mine=runs/mine/student --out report --quick

        ssd1b compare path/to/sdxl segmind/SSD-1B --out report --quick    # full size
    """
    if len(models) < 2:
        raise RequestError("A comparison needs at least two models. Give the teacher first, then students.")
    effort = Effort(prompts, None, steps, guidance, seed, quick)
    contenders = load_contenders(models, device, run)
    comparison = compare(contenders, effort, title)
    path = write(comparison, out)
    if as_json:
        from ssd1b.evaluate.comparison import record

        show.print_json({"report": str(path), **record(comparison)})
    else:
        print_table(comparison)
        show.say(f"The report is {path}")


def load_contenders(names: Sequence[str], device: str | None, run: Path | None = None) -> list[Contender]:
    """Load the models under labels that differ; `run` belongs to the last of them."""
    from ssd1b.evaluate.report import Contender
    from ssd1b.formats import hub
    from ssd1b.generate.load import TORCH, load

    labels: list[str] = []
    contenders = []
    for number, given in enumerate(names):
        label, source = labelled(given)
        label = label if label not in labels else f"{label} ({number + 1})"
        labels.append(label)
        if hub.is_id(source) and not Path(source).exists():
            with show.counting_bytes(f"fetching {source}") as reached:
                model = load(source, device=device, wish=TORCH, listener=hub.Listener(show.say, reached))
        else:
            model = load(source, device=device, wish=TORCH)
        contenders.append(Contender(label, source, model, run if number == len(names) - 1 else None))
    return contenders


def labelled(given: str) -> tuple[str, str]:
    """Split LABEL=MODEL; without a label, the name or the part of the path that says something."""
    label, sign, source = given.partition("=")
    if sign and label and source and not Path(given).exists():
        return label, source
    path = Path(given)
    if not path.is_dir():
        return path.name if path.exists() else given, given
    parts = [part for part in path.resolve().parts if part not in ("student", "stages")]
    return parts[-1], given


def compare(contenders: Sequence[Contender], effort: Effort, title: str = "") -> Comparison:
    """Measure everything, with progress on standard error."""
    from ssd1b.evaluate import judging, report

    first = contenders[0].model
    settings = judging.settings_of(first, effort.steps, effort.guidance, effort.seed)
    sizes = {one.model.shape.sample_size for one in contenders}
    if len(sizes) > 1:
        raise RequestError(
            "These models draw pictures of different native sizes"
            f" ({', '.join(f'{one.name}: {one.model.defaults.width} px' for one in contenders)}), so the same"
            " noise cannot be given to all of them. Compare miniatures with miniatures."
        )
    found = _judged(contenders, effort, settings) if first.miniature else _shown(contenders, effort, settings)
    asked = len(found.answers[0]) if found.answers else 0
    names = " and ".join(dict.fromkeys((contenders[0].name, contenders[-1].name)))
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return report.gather(contenders, found, title or names, report.facts_of(words, first, settings, asked))


def _judged(contenders: Sequence[Contender], effort: Effort, settings: Settings) -> Findings:
    from ssd1b.evaluate import judging, showcase
    from ssd1b.evaluate import prompts as fixed
    from ssd1b.evaluate.report import Findings

    examiner = judging.scene_reader()
    n = effort.prompts or (QUICK_PROMPTS if effort.quick else fixed.TOTAL)
    asked, sizes = fixed.prompts(n, effort.seed), fixed.nine_sizes(effort.seed)
    speeds = _speeds(contenders, effort, settings)
    answers = [_answers(one, examiner, (*asked, *sizes), settings) for one in contenders]
    shown = fixed.showcase(asked)
    by_prompt = [{answer.prompt: answer for answer in given} for given in answers]
    return Findings(
        speeds=speeds,
        answers=[given[: len(asked)] for given in answers],
        shots=showcase.judged(
            [[known[prompt] for prompt in shown] for known in by_prompt],
            [prompt.kind.replace("_", " ") for prompt in shown],
        ),
        aspects=showcase.judged(
            [[known[prompt] for prompt in sizes] for known in by_prompt],
            [prompt.nouns[0] for prompt in sizes],
        ),
        reader_accuracy=examiner.judge.accuracy,
    )


def _answers(
    contender: Contender, examiner: Examiner, asked: Sequence[Prompt], settings: Settings
) -> list[Answer]:
    from ssd1b.evaluate.judging import judge_model

    with show.counting(f"evaluating {contender.name}", len(asked), "pictures") as done:
        return judge_model(contender.model, examiner, asked, settings, done)


def _shown(contenders: Sequence[Contender], effort: Effort, settings: Settings) -> Findings:
    """Models for photographs: speed and pictures, and nobody to judge them."""
    from ssd1b.evaluate import showcase
    from ssd1b.evaluate.report import Findings

    speeds = _speeds(contenders, effort, settings)
    models = [one.model for one in contenders]
    total = showcase.photographs_wanted(effort.quick) * len(models)
    with show.counting("drawing", total, "pictures") as done:
        shots, aspects = showcase.photographs(models, settings, effort.quick, done)
    return Findings(speeds, [], shots, aspects, {})


def _speeds(contenders: Sequence[Contender], effort: Effort, settings: Settings) -> list[Speed]:
    from ssd1b.evaluate import bench
    from ssd1b.evaluate.judging import request_for

    first = contenders[0].model
    text = "a fox, flat style, on a blue background" if first.miniature else "a lighthouse on a cliff at dusk"
    px = (first.defaults.width, first.defaults.height)
    requests = [request_for(one.model, text, px, settings.seed, settings) for one in contenders]
    rounds = effort.rounds or (QUICK_ROUNDS if effort.quick else bench.ROUNDS)
    with show.counting("timing", (rounds + 1) * len(contenders), "pictures") as done:
        return bench.measure([one.model for one in contenders], requests, rounds, done)


def write(comparison: Comparison, out: Path) -> Path:
    """Write the report; return the page."""
    from ssd1b.evaluate import report

    return report.write(comparison, out)


def print_table(comparison: Comparison) -> None:
    """Print the comparison's figures as a table."""
    judged = any(entry.scores is not None for entry in comparison.entries)
    columns = ("model", ">params", ">file", ">one call", ">picture", ">speed")
    rows = [_row(comparison, entry, judged) for entry in comparison.entries]
    show.stdout().print(f"\n{comparison.headline()}\n", markup=False)
    show.table("", (*columns, *((">overall",) if judged else ())), rows)


def _row(comparison: Comparison, entry: Entry, judged: bool) -> tuple[str, ...]:
    size = entry.size
    cells = (
        f"[bold]{entry.name}[/]",
        human_count(size.params),
        human_bytes(size.unet_bytes),
        human_flops(size.flops),
        human_seconds(entry.speed.seconds),
        f"{comparison.speedup(entry):.2f} ×",
    )
    if not judged:
        return cells
    overall = entry.scores.overall if entry.scores is not None else None
    return (
        *cells,
        f"{overall.score:.1%} ({100 * overall.low:.0f}–{100 * overall.high:.0f})" if overall else "",
    )
