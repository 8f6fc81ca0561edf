"""`ssd1b evaluate`: how well a mini model does what it is told.

Wires the fixed prompts, the model and the scene reader together and prints the scores; knows none of their
insides.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd1b.base.errors import RequestError
from ssd1b.cli import show

if TYPE_CHECKING:
    from ssd1b.evaluate.judging import Answer, Examiner, Settings
    from ssd1b.evaluate.scores import Score
    from ssd1b.generate.model import Model

READ = ("object", "style", "background", "position")
"""What the reader's own accuracy is measured on."""


def command(
    model: Annotated[str, typer.Argument(help="A mini model: an embedded name, a folder or a file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    prompts: Annotated[
        int | None, typer.Option(help="Only so many prompts, evenly over the kinds; all 560 if not given.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's own if not given.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale; the model's own if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another starting noise for every prompt.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Save the pictures here, one sheet per kind, framed by verdict.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; chosen if not given.")] = None,
    engine: Annotated[str, typer.Option(help="torch, or openvino for what `ssd1b export` made.")] = "torch",
    precision: Annotated[str | None, typer.Option(help="Of the OpenVINO engine: fp16 or int8.")] = None,
    guidance_until: Annotated[
        float, typer.Option(help="Share of the steps that are guided, from the first; the rest cost half.")
    ] = 1.0,
    reuse: Annotated[
        int, typer.Option(help="Run the UNet's deep blocks in each n-th step only (DeepCache); 1: in all.")
    ] = 1,
    tiny_decoder: Annotated[
        Path | None,
        typer.Option(help="Folder of an AutoencoderTiny to decode with; mini-tiny: the miniatures'."),
    ] = None,
) -> None:
    """Draw a fixed set of prompts and let the scene reader say what is in each picture.

    Six scores, each the share of pictures that show what was asked: one object, two objects, position,
    background, style, and combinations that no training picture showed. Pictures that are known already are
    not made again.

    Examples:
        ssd1b evaluate mini-ssd

        ssd1b evaluate mini-ssd --prompts 96 --json

        ssd1b evaluate runs/mini-ssd/student --out sheets

        ssd1b evaluate mini-ssd --engine openvino --precision int8
    """
    from ssd1b.evaluate import judging
    from ssd1b.evaluate import prompts as fixed

    asked = fixed.prompts(fixed.TOTAL if prompts is None else prompts, seed)
    loaded = load_miniature(model, device, engine, precision, tiny_decoder)
    settings = replace(
        judging.settings_of(loaded, steps, guidance, seed),
        guidance_until=guidance_until,
        reuse=reuse,
    )
    examiner = judging.scene_reader()
    with show.counting(f"evaluating {Path(model).name}", len(asked), "pictures") as done:
        answers = judging.judge_model(loaded, examiner, asked, settings, done)
    if out is not None:
        from ssd1b.evaluate.sheets import write_sheets

        show.say(f"{len(write_sheets(answers, out))} sheets of pictures are in {out}.")
    if as_json:
        show.print_json({"model": model, **record(loaded, examiner, answers, settings)})
    else:
        _print(model, examiner, answers)


def load_miniature(
    name: str,
    device: str | None,
    engine: str = "torch",
    precision: str | None = None,
    decoder: Path | None = None,
) -> Model:
    """Load a mini model in float32, refusing any other before its weights are read.

    Raises:
        RequestError: the model is not of the mini world.
    """
    from ssd1b.evaluate.judging import refuse_full_size
    from ssd1b.formats import hub
    from ssd1b.formats.diffusers_folder import read_json
    from ssd1b.formats.openvino_ir import is_export
    from ssd1b.generate import load
    from ssd1b.mini import embedded
    from ssd1b.plan.shape import shape_of

    here = name in embedded.NAMES or Path(name).expanduser().exists()
    if not here and hub.is_id(name) and not name.startswith((".", "/", "~")):
        raise RequestError(
            f"'{name}' looks like a model on the hub. The scene reader only judges models of the mini world,"
            " and those are embedded or lie in a folder; nothing was downloaded. Give mini-sdxl, mini-ssd or"
            " a folder that is there."
        )
    folder = load.find(name)
    config = folder / "unet" / "config.json"
    if config.is_file():
        shape = shape_of(read_json(config))
        refuse_full_size(shape.sample_size, shape.cross_attention_dim, name)
    wish = load.wish_of("auto" if is_export(folder) else engine, precision, decoder=decoder)
    # Torch is judged in float32 on every device; exports in the numbers that `generate` runs them in.
    dtype = "float32" if wish.engine == "torch" else None
    return load.load(name, device=device, dtype=dtype, wish=wish)


def record(model: Model, examiner: Examiner, answers: list[Answer], settings: Settings) -> dict[str, object]:
    """Everything `--json` says about one model."""
    from ssd1b.evaluate.scores import scores

    result = scores([(answer.prompt, answer.reading) for answer in answers])
    return {
        "overall": round(result.overall.score, 4),
        "scores": {kind: round(score.score, 4) for kind, score in result.kinds.items()},
        "intervals": {kind: _interval(score) for kind, score in result.kinds.items()}
        | {"overall": _interval(result.overall)},
        "reader_accuracy": dict(examiner.judge.accuracy),
        "prompts": len(answers),
        "prompts_per_kind": {kind: score.n for kind, score in result.kinds.items()},
        "steps": settings.steps,
        "guidance": settings.guidance,
        "scheduler": settings.scheduler,
        "seed": settings.seed,
        "seconds": round(sum(answer.seconds for answer in answers), 1),
        "engine": model.engine,
        "device": model.placement.reason,
    }


def _interval(score: Score) -> list[float]:
    return [round(score.low, 4), round(score.high, 4)]


def _print(name: str, examiner: Examiner, answers: list[Answer]) -> None:
    from ssd1b.evaluate.scores import scores

    result = scores([(answer.prompt, answer.reading) for answer in answers])
    rows = [_row(kind.replace("_", " "), score) for kind, score in result.kinds.items()]
    rows.append(_row("[bold]overall[/]", result.overall))
    columns = ("kind", ">score", ">95 % interval", ">passed", "")
    show.table(f"{name}: what it was told, and what is seen", columns, rows)
    known = examiner.judge.accuracy
    said = [f"{what} {known[what]:.1%}" for what in READ if what in known]
    show.stdout().print(f"[dim]The reader itself, on true scenes it never saw: {', '.join(said)}.[/]")


def _row(name: str, score: Score) -> tuple[str, ...]:
    cells = round(24 * score.score)
    bar = f"[green]{'━' * cells}[/][dim]{'─' * (24 - cells)}[/]"
    interval = f"{score.low:.1%} – {score.high:.1%}"
    return name, f"{score.score:.1%}", interval, f"{score.passed} of {score.n}", bar
