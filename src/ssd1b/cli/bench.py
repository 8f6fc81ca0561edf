"""`ssd1b bench`: how fast models run on this machine, before gigabytes are fetched.

Wires random models, exports and measuring processes together, prints the table, writes JSON and charts.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd1b.base.errors import RequestError, did_you_mean
from ssd1b.base.units import human_bytes, human_flops, human_seconds
from ssd1b.cli import show
from ssd1b.cli.export import stages

if TYPE_CHECKING:
    from ssd1b.evaluate.speed.measure import Plan, Subject
    from ssd1b.evaluate.speed.record import Bench, Case

OURS = ("torch", "openvino-fp16", "openvino-int8")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says."""

    models: Sequence[str]
    engines: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    steps: int
    rounds: int
    threads: int


def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Plans of full size (random weights) or real models; ssd-1b if none is given."),
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(help="torch, openvino-int8, ...; several; all that are installed.")
    ] = None,
    size: Annotated[list[str] | None, typer.Option(help="Width x height in pixels; several.")] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Of a whole picture.")] = 25,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Warm runs of each part.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Of every engine; all cores.")] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also stock diffusers, stock OpenVINO and stable-diffusion.cpp.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only a probe of half a minute, and what follows from it.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="A folder for bench.json and two charts.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Time text encoders, UNet and decoder on every engine, at true size, without downloading anything.

    Speed does not depend on what weights say: a plan's name stands for a model of that size with random
    weights, made on the fly. Engines take turns in processes of their own. What is reached is put beside what
    this machine's matrix products reach.

    Examples:
        ssd1b bench ssd-1b --estimate

        ssd1b bench mini-sdxl mini-ssd --size 128x128

        ssd1b bench ssd-1b sdxl --size 512x512 --peers --out bench    # 25 GB of disk, half an hour
    """
    given = Wanted(
        models or ["ssd-1b"],
        _engines(engine, peers),
        _sizes(size, models or ["ssd-1b"]),
        steps,
        rounds,
        threads or os.cpu_count() or 1,
    )
    if estimate:
        _estimate(given, as_json)
        return
    bench = _measured(given)
    if out is not None:
        _write(bench, out)
    if as_json:
        show.print_json(json.loads(bench.as_json()))
    else:
        _print(bench)


def _engines(asked: Sequence[str] | None, with_peers: bool) -> list[str]:
    """What is to be measured: as asked, or all of ours that are installed, and the peers if wished for.

    Raises:
        RequestError: no engine is called that, or it is not installed.
    """
    from ssd1b.evaluate.speed import peers, runners
    from ssd1b.generate import openvino

    known = (*runners.ENGINES, *peers.ENGINES)
    for name in asked or ():
        if name not in known:
            raise RequestError(
                f"No engine is called '{name}'.{did_you_mean(name, known)} There are: {', '.join(known)}."
            )
        if name.startswith("openvino"):
            openvino.needed("nncf" if "int8" in name else "openvino")
    chosen = list(asked or [name for name in OURS if name == "torch" or openvino.installed()])
    for name in peers.ENGINES if with_peers else ():
        why = peers.missing(name)
        if why:
            show.say(why)
        elif name not in chosen:
            chosen.append(name)
    return chosen


def _sizes(asked: Sequence[str] | None, models: Sequence[str]) -> list[tuple[int, int]]:
    from ssd1b.generate.request import parse_size

    small = all(model.startswith("mini-") for model in models)
    return [
        parse_size(text, 16 if small else 128) for text in asked or (["128x128"] if small else ["512x512"])
    ]


def _measured(given: Wanted) -> Bench:
    """Probe the machine, prepare the files, let the engines take turns."""
    from ssd1b.evaluate.speed import measure, work
    from ssd1b.evaluate.speed.record import Bench

    _refuse_too_large(given)
    folders = _sources(given)
    subjects = _subjects(given, folders)
    peaks = probed(given.threads)
    plan = measure.Plan(given.sizes, given.rounds, given.threads)
    groups = _groups(subjects)

    def flops(model: str, part: str, px: tuple[int, int]) -> int:
        return work.flops_of(folders[model], part, px)

    with _progress(subjects, plan) as on_run:
        cases = measure.measure(groups, plan, flops, on_run)
    return Bench(cases, peaks, machine(given.threads), _about(given, groups), given.steps)


def _sources(given: Wanted) -> dict[str, Path]:
    from ssd1b.evaluate.speed import prepare

    with stages() as heard:
        return {model: prepare.source(model, heard) for model in given.models}


def _subjects(given: Wanted, folders: dict[str, Path]) -> list[Subject]:
    """Everything that takes turns, its files made ready; what cannot be converted here is left out.

    Raises:
        RequestError: nothing is left.
    """
    from ssd1b.evaluate.speed import peers
    from ssd1b.evaluate.speed.measure import PARTS, Subject

    found = []
    with stages() as heard:
        for engine in given.engines:
            for model, folder in folders.items():
                place = _ready(model, folder, engine, heard)
                parts = ("unet",) if engine in peers.ONLY_UNET else PARTS
                if place is not None:
                    found.append(Subject(model, engine, place, parts))
    if not found:
        raise RequestError("Nothing is left to measure. Close other programs, or name other engines.")
    return found


def _ready(model: str, folder: Path, engine: str, heard: Callable[[str, int, int], None]) -> Path | None:
    """The files that an engine runs a model from; None, with the reason said, if they cannot be made here."""
    import psutil

    from ssd1b.evaluate.speed import prepare

    if not engine.startswith("openvino"):
        return folder
    why = prepare.too_large(model, folder, engine, psutil.virtual_memory().available)
    if why:
        show.say(why)
        return None
    return prepare.exported(model, folder, "int8" if engine == "openvino-int8" else "fp16", heard)


def _groups(subjects: Sequence[Subject]) -> list[list[Subject]]:
    """Subjects that stay loaded side by side; a quarter of the free memory is left alone."""
    import psutil

    from ssd1b.evaluate.speed import measure
    from ssd1b.evaluate.speed.prepare import counted_of

    memory = {one: counted_of(one.model).memory(one.engine) for one in subjects}
    return measure.grouped(subjects, memory.__getitem__, 0.75 * psutil.virtual_memory().available)


def _refuse_too_large(given: Wanted) -> None:
    """Refuse an engine that free memory does not hold.

    Raises:
        RequestError: naming it, and what it takes.
    """
    import psutil

    from ssd1b.evaluate.speed.prepare import counted_of

    free = psutil.virtual_memory().available
    needs = {(m, e): counted_of(m).memory(e) for m in given.models for e in given.engines}
    (model, engine), most = max(needs.items(), key=lambda item: item[1])
    if most > free:
        raise RequestError(
            f"{model} on {engine} takes about {human_bytes(most)} of memory; {human_bytes(free)} are free."
            " Close other programs, leave this engine out with --engine, or take a smaller model."
        )


def probed(threads: int) -> dict[str, float]:
    """This machine's limits, from a process of its own."""
    show.say("Probing this machine's matrix products.")
    words = [sys.executable, "-m", "ssd1b.evaluate.speed.probe", str(threads)]
    told = subprocess.run(
        words, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
    )
    return dict(json.loads(told.stdout.splitlines()[-1]))


@contextmanager
def _progress(subjects: Sequence[Subject], plan: Plan) -> Iterator[Callable[[Subject, str, bool], None]]:
    """A bar over all runs that says what is running."""
    from ssd1b.evaluate.speed.measure import runs

    with show.counting("measuring", runs(subjects, plan), "runs") as advance:
        started = 0

        def on_run(subject: Subject, part: str, cold: bool) -> None:
            nonlocal started
            if started:
                advance(1)
            started += 1

        yield on_run
        advance(1)


def machine(threads: int) -> dict[str, object]:
    """What the figures depend on."""
    import psutil

    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    useful = [flag for flag in flags if flag.startswith(("avx2", "avx512_", "avx_vnni", "amx"))]
    return {
        "processor": name or platform.processor() or platform.machine(),
        "features": useful,
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _about(given: Wanted, groups: Sequence[Sequence[Subject]]) -> dict[str, object]:
    from importlib.metadata import PackageNotFoundError, version

    from ssd1b.base.files import versions

    said = dict(versions())
    for package in ("openvino", "nncf", "stable-diffusion-cpp-python"):
        try:
            said[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "command": " ".join(["ssd1b", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": said,
        "rounds": given.rounds,
        "interleaved": len(groups) == 1,
        "took_turns": [[f"{subject.model}/{subject.engine}" for subject in group] for group in groups],
    }


def _write(bench: Bench, out: Path) -> None:
    from ssd1b.base.files import write_atomic
    from ssd1b.evaluate.speed.charts import picture_chart, step_chart

    px = bench.cases[0].px
    write_atomic(out / "bench.json", bench.as_json())
    write_atomic(out / "step.svg", step_chart(bench, px))
    write_atomic(out / "picture.svg", picture_chart(bench, bench.cases[-1].px))
    show.say(f"bench.json and two charts are in {out}.")


def _print(bench: Bench) -> None:
    """The table for people."""
    named = ("model", "engine", ">size")
    seconds = (*named, ">text", ">UNet", ">decode", ">picture")
    show.table("Seconds", seconds, [_seconds(bench, case) for case in bench.cases])
    step = (*named, ">spread", ">first", ">GFLOP/s", ">limit", ">memory")
    show.table("One UNet step", step, [_step(bench, case) for case in bench.cases])
    limits = ", ".join(f"{name} {value:,.0f}" for name, value in bench.peaks.items())
    show.say(f"Limits (matrix products, GFLOP/s): {limits}. Picture: {bench.steps} guided steps, added up.")
    if not bench.about.get("interleaved"):
        show.say("Not all engines fit into memory together; bench.json says which took turns.")
    show.table("", ("ratio", ">times"), [(name, f"{value:.2f}") for name, value in bench.ratios.items()])


def _named(case: Case) -> tuple[str, str, str]:
    return case.model, case.engine, f"{case.px[0]}x{case.px[1]}"


def _seconds(bench: Bench, case: Case) -> tuple[str, ...]:
    whole = case.picture_s(bench.steps)
    parts = (case.parts.get(part) for part in ("text", "unet", "decode"))
    told = (human_seconds(part.median) if part else "-" for part in parts)
    return (*_named(case), *told, human_seconds(whole) if whole else "-")


def _step(bench: Bench, case: Case) -> tuple[str, ...]:
    unet, share = case.parts["unet"], bench.share_of_peak(case)
    return (
        *_named(case),
        f"{unet.spread:.0%}",
        human_seconds(unet.cold),
        f"{unet.gflops:,.0f}" if unet.gflops else "-",
        f"{share:.0%}" if share else "-",
        human_bytes(unet.peak_bytes),
    )


def _estimate(given: Wanted, as_json: bool) -> None:
    """What the probe lets one expect of each model, engine and size."""
    from ssd1b.evaluate.speed import estimate, prepare

    peaks, shares = probed(given.threads), estimate.known()
    rows: list[tuple[str, ...]] = []
    told: list[dict[str, object]] = []
    for model in given.models:
        count = prepare.counted_of(model)
        for px in given.sizes:
            work = estimate.picture(partial(count.flops, px=px), given.steps)
            for engine in given.engines:
                found = estimate.guess(engine, work, peaks, shares)
                memory = count.memory(engine)
                size = f"{px[0]}x{px[1]}"
                low, high = (round(found.low, 2), round(found.high, 2)) if found else (None, None)
                told.append({"model": model, "engine": engine, "size": size, "low_s": low, "high_s": high,
                             "memory_bytes": round(memory), "flops": sum(work.values())})  # fmt: skip
                time = f"{human_seconds(found.low)} to {human_seconds(found.high)}" if found else "not known"
                rows.append((model, engine, size, human_flops(sum(work.values())), time, human_bytes(memory)))
    if as_json:
        show.print_json({"peak_gflops": peaks, "steps": given.steps, "estimates": told})
        return
    show.table("", ("model", "engine", ">size", ">work", ">picture", ">memory"), rows)
    show.say(
        f"{given.steps} guided steps. From {len(shares)} measured parts on one kind of processor: where"
        " yours is another kind, expect more than the given range now and then. `ssd1b bench` measures."
    )
