"""`ssd1b carve`: cut a student out of a teacher on disk, streamed, into a complete diffusers folder.

Wires formats (what the teacher's files hold) and surgery (what the plan takes of it). Needs no torch.
"""

from __future__ import annotations

import errno
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd1b.base.errors import DiskFullError, OutputExistsError, RequestError, did_you_mean
from ssd1b.base.files import finished_folder, write_manifest
from ssd1b.base.units import human_bytes, human_seconds
from ssd1b.plan.layers import LayerPlan

if TYPE_CHECKING:
    from ssd1b.formats.pipeline import NewUNet, Pipeline
    from ssd1b.surgery.check import CheckReport, Row

DTYPES = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}
_SPARE_BYTES = 16 << 20  # headers, configs, tokenizers
OnBytes = Callable[[int, int], None]


def command(
    teacher: Annotated[
        str,
        typer.Option(help="Folder of a diffusers pipeline, single-file checkpoint, hub id, or mini-sdxl."),
    ],
    plan: Annotated[str, typer.Option(help="A plan's name (`ssd1b plan list`) or a YAML file.")] = "ssd-1b",
    out: Annotated[Path | None, typer.Option(help="Folder to write; must not be there yet.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only show what would be kept and dropped.")] = False,
    dtype: Annotated[str, typer.Option(help="fp16, bf16 or fp32; by default as the teacher has it.")] = "",
    variant: Annotated[str, typer.Option(help="Which weights of a folder to read, e.g. fp16.")] = "",
    tokenizers: Annotated[
        Path | None, typer.Option(help="For a single file: a folder with tokenizer and tokenizer_2.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Cut a student out of an SDXL teacher: the layers that a plan keeps, copied byte by byte.

    Examples:
        ssd1b carve --teacher path/to/sdxl --plan ssd-1b --check

        ssd1b carve --teacher mini-sdxl --plan mini-ssd --out my-mini

        ssd1b carve --teacher path/to/sdxl --plan ssd-1b --out my-student

        ssd1b carve --teacher model.safetensors --tokenizers path/to/sdxl --plan my-plan.yaml --out my-student

        ssd1b carve --teacher stabilityai/stable-diffusion-xl-base-1.0 --variant fp16 --out my-student
    """
    from ssd1b.cli import show
    from ssd1b.formats.detect import open_model
    from ssd1b.formats.plan_file import find_plan
    from ssd1b.formats.tokenizer_files import with_tokenizers

    cast = _dtype(dtype)
    if out is None and not check:
        raise RequestError("Say where the student goes with --out DIR, or look first with --check.")
    layers = find_plan(plan)
    pipeline = open_model(_local(teacher), variant=variant or None)
    fitted = fit(layers, pipeline)
    report = report_of(pipeline, fitted)
    if check and not as_json:
        _print_report(report)
    start = time.monotonic()
    if out is not None and not check:
        _refuse_existing(out)
        pipeline = with_tokenizers(pipeline, tokenizers)
        with show.counting_bytes("carving") as reached:
            carve_pipeline(pipeline, fitted, out, dtype=cast, on_bytes=reached, words=_command_line())
    seconds = time.monotonic() - start
    if as_json:
        written = None if check else str(out)
        record = {"teacher": str(pipeline.path), "kind": pipeline.kind, "out": written, "seconds": seconds}
        show.print_json({**record, **report.record()})
    elif not check:
        show.say(_summary(report))
        show.say(f"Wrote {out} in {human_seconds(seconds)}. `ssd1b generate --model {out} …` uses it.")


def carve(teacher: Path, plan: LayerPlan, out: Path, on_bytes: OnBytes | None = None) -> Path:
    """Carve the model at `teacher` (folder or single file) into the folder `out`; return `out`.

    Raises:
        UserError: as `open_model`, `fit` and `carve_pipeline` do.
    """
    from ssd1b.formats.detect import open_model
    from ssd1b.formats.tokenizer_files import with_tokenizers

    pipeline = open_model(teacher)
    fitted = fit(plan, pipeline)
    return carve_pipeline(with_tokenizers(pipeline, None), fitted, out, on_bytes=on_bytes)


def fit(plan: LayerPlan, pipeline: Pipeline) -> LayerPlan:
    """The plan on this teacher's widths.

    Raises:
        LayoutError: the teacher has another layout than the plan is cut from.
    """
    from ssd1b.formats.unet_layout import fitted
    from ssd1b.plan.shape import shape_of

    return fitted(plan, shape_of(pipeline.unet_config), str(pipeline.path))


def report_of(pipeline: Pipeline, plan: LayerPlan) -> CheckReport:
    """What carving this teacher by this plan keeps and drops."""
    from ssd1b.surgery.check import check

    return check({name: view.n_bytes for name, view in pipeline.unet.tensors.items()}, plan)


def carve_pipeline(
    pipeline: Pipeline,
    plan: LayerPlan,
    out: Path,
    *,
    dtype: str | None = None,
    on_bytes: OnBytes | None = None,
    words: Sequence[str] = (),
) -> Path:
    """Write the student of `plan` and everything else of the pipeline into `out`, with a manifest.

    Args:
        pipeline: the teacher, with tokenizers.
        plan: on this teacher's widths (see `fit`).
        out: the folder to make; it appears when all is written, or not at all.
        dtype: "F16", "BF16" or "F32" casts all weights; None copies bytes.
        on_bytes: hears (bytes written, bytes in all).
        words: the command line, for the manifest.

    Raises:
        OutputExistsError: `out` is there already.
        DiskFullError: there is no room, found before writing where possible.
        DamagedFileError: a file of the teacher became shorter meanwhile.
        LayoutError: a number does not fit into float16.
    """
    from ssd1b.formats.fingerprints import hashing
    from ssd1b.formats.pipeline import write_pipeline
    from ssd1b.formats.safetensors_io import written_bytes

    unet = student_unet(pipeline, plan)
    total = written_bytes(unet.tensors, dtype) + pipeline.carried_bytes(dtype)
    _refuse_full_disk(out, total)
    done = 0

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if on_bytes is not None:
            on_bytes(done, total)

    with finished_folder(out) as folder, _no_size_limit(out), hashing(pipeline.weight_files) as hashes:
        write_pipeline(pipeline, folder, unet, dtype=dtype, on_bytes=advance)
        inputs = {str(path): future.result() for path, future in hashes.items()}
        write_manifest(folder, command=list(words), inputs=inputs, **_facts(pipeline, plan, dtype))
    return out


def student_unet(pipeline: Pipeline, plan: LayerPlan) -> NewUNet:
    """The student's weights as byte ranges of the teacher, and its true config.

    What the teacher's config says beyond the layout (dropout, version, …) is kept.
    """
    from ssd1b.formats.pipeline import NewUNet, as_json
    from ssd1b.surgery.carve import carve_state

    tensors = carve_state(pipeline.unet.tensors, plan)
    layout = {} if plan.keeps_everything else plan.unet_config()
    config = {key: value for key, value in pipeline.unet_config.items() if key != "_name_or_path"}
    return NewUNet(tensors, pipeline.unet.metadata, as_json({**config, **layout}))


def _facts(pipeline: Pipeline, plan: LayerPlan, dtype: str | None) -> dict[str, object]:
    kept = {site: list(blocks) for site, blocks in plan.kept.items()}
    resnets = {block: list(indices) for block, indices in plan.resnets.items()}
    layout = {"name": plan.name, "provenance": plan.provenance, "kept": kept, "resnets": resnets}
    return {
        "teacher": {"path": str(pipeline.path), "kind": pipeline.kind},
        "plan": layout,
        "dtype": dtype or "as the teacher's",
    }


def _local(teacher: str) -> Path:
    """The teacher on this machine: the path itself, an embedded model, or what the hub's cache holds."""
    path = Path(teacher).expanduser()
    if path.exists():
        return path
    from ssd1b.formats import hub
    from ssd1b.mini import embedded

    if teacher in embedded.NAMES:
        return embedded.folder(teacher)
    if not hub.is_id(teacher):
        return path
    from ssd1b.cli import show

    repository, revision = hub.split_id(teacher)
    with show.counting_bytes(f"fetching {teacher}") as reached:
        return hub.fetch(repository, revision, listener=hub.Listener(show.say, reached))


def _dtype(name: str) -> str | None:
    if name and name not in DTYPES:
        known = ", ".join(DTYPES)
        raise RequestError(
            f"No number format is called '{name}'.{did_you_mean(name, DTYPES)} Known: {known}."
        )
    return DTYPES.get(name)


def _refuse_existing(out: Path) -> None:
    """Say so before the work begins; `finished_folder` would say it too."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise OutputExistsError(f"{out} is there already. Give another --out, or remove it first.")


def _refuse_full_disk(out: Path, n_bytes: int) -> None:
    home = next(place for place in out.absolute().parents if place.exists())
    free = shutil.disk_usage(home).free
    if free < n_bytes + _SPARE_BYTES:
        raise DiskFullError(
            f"{out} needs {human_bytes(n_bytes)}, and {human_bytes(free)} are left on that disk. Nothing was"
            " written. Free some space or give another --out."
        )


@contextmanager
def _no_size_limit(out: Path) -> Iterator[None]:
    """Name the limit on file sizes, which the system reports in its own way."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise DiskFullError(
            f"{out} could not be written: this shell or file system limits the size of files (`ulimit -f`)."
            " Nothing half-written was left behind. Raise the limit or give another --out."
        ) from error


def _command_line() -> list[str]:
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def _print_report(report: CheckReport) -> None:
    from ssd1b.cli import show

    columns = ("place", "kept", "dropped", "becomes", ">kept", ">dropped")
    show.table(f"Carving by plan '{report.plan}'", columns, [_cells(row) for row in report.rows])
    show.stdout().print(f"{_summary(report)} VAE, text encoders, tokenizers and scheduler go along.")


def _summary(report: CheckReport) -> str:
    return (
        f"{report.kept_tensors} UNet tensors are kept ({human_bytes(report.kept_bytes)}),"
        f" {report.dropped_tensors} dropped ({human_bytes(report.dropped_bytes)})."
    )


def _cells(row: Row) -> tuple[str, ...]:
    moved = [f"{old}→{new}" for new, old in row.copied if old != new]
    if row.becomes is None:
        fate = "nothing"
    elif row.becomes != row.place:
        fate = ".".join(row.becomes.split(".")[-2:])
    else:
        fate = " ".join(moved)
    kept = _ranges([old for _, old in row.copied]) if row.count else "all"
    return (
        row.place,
        f"[green]{kept}[/]",
        f"[red]{_ranges(row.dropped)}[/]",
        f"[yellow]{fate}[/]",
        human_bytes(row.kept_bytes) if row.kept_bytes else "",
        human_bytes(row.dropped_bytes) if row.dropped_bytes else "",
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers as they read best: 0, 1, 2, 6 is "0–2 6"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
