"""`ssd1b export`: a model written as another engine wants it.

Wires model, requests and the exporter together; how networks are converted is not known here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd1b.base.errors import RequestError
from ssd1b.base.units import human_bytes
from ssd1b.cli import show
from ssd1b.cli.generate import downloads

if TYPE_CHECKING:
    from ssd1b.formats.openvino_ir import Record

TARGETS = ("openvino",)


def command(
    model: Annotated[str, typer.Argument(help="An embedded model, a diffusers folder, a file, or a hub id.")],
    to: Annotated[str, typer.Option("--to", help="What for: openvino.")] = "openvino",
    precision: Annotated[str, typer.Option(help="fp16, or int8: weights and activations.")] = "int8",
    out: Annotated[
        Path | None, typer.Option(help="A new folder; left out: where `--engine openvino` finds it.")
    ] = None,
    pictures: Annotated[
        int | None, typer.Option(min=2, max=64, help="Pictures to calibrate on; left out: 4, miniatures 12.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of those; left out: 8, miniatures 10.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A file with a prompt per line to calibrate on.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="A group of UNet layers to keep in floating point; none given: measured."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also where eight bits change the pictures much.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Convert a model for OpenVINO: three to five times as fast on processors with --precision int8.

    Eight bits are calibrated on what the model's own networks are fed while it draws, the layers that suffer
    most stay in floating point, and the result is compared with the original on whole pictures.

    Examples:
        ssd1b export mini-ssd --to openvino --precision int8

        ssd1b export segmind/SSD-1B --to openvino --out ssd-1b-int8

        ssd1b export mini-ssd --to openvino --precision fp16 --out mini-ssd-fp16
    """
    from ssd1b.formats.openvino_ir import halfway, place_of
    from ssd1b.generate.load import find, public_name, wish_of
    from ssd1b.generate.openvino.asking import Wanted, calibration_requests
    from ssd1b.generate.openvino.export import Order, export

    if to not in TARGETS:
        raise RequestError(f"Nothing is exported to '{to}'. There are: {', '.join(TARGETS)}.")
    wish = wish_of("openvino", precision)
    assert wish.precision is not None, "it was given, and checked"
    with downloads() as listener:
        source = find(model, listener)
    wanted = Wanted(prompts, pictures, steps)
    eight = wish.precision == "int8"
    order = Order(
        source=source,
        name=public_name(model),
        precision=wish.precision,
        requests=calibration_requests(source, model, wanted) if eight else (),
        kept_back=tuple(keep) if keep else None,
        force=force,
        base=halfway(source) if eight else None,
    )
    place = out or place_of(source, wish.precision)
    with stages() as heard:
        record = export(order, place, ["ssd1b", *sys.argv[1:]], heard)
    _print(order.name, record, place, as_json)


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage of work, one after the other."""
    with ExitStack() as stack:
        stage, done = "", 0
        bars: list[Callable[[int], None]] = []

        def heard(what: str, number: int, total: int) -> None:
            nonlocal stage, done
            if what != stage:
                stack.close()
                stage, done = what, 0
                bars[:] = [stack.enter_context(show.counting(what, total))]
            bars[0](number - done)
            done = number

        yield heard


def _print(name: str, record: Record, place: Path, as_json: bool) -> None:
    drift = record.drift
    weights = sum(record.bytes_of.values())
    if as_json:
        show.print_json({"model": name, "folder": str(place), "bytes": weights, **record.model_dump()})
        return
    if drift is not None:
        show.say(
            f"Against floating point: median PSNR {drift.psnr_db:.1f} dB over {drift.pictures} pictures,"
            f" noise estimates off by {drift.noise_error:.1%}. In floating point stay"
            f" {', '.join(record.kept_back)}."
        )
    show.say(f"{name} in {record.precision} is {human_bytes(weights)}. Use it: --engine openvino")
    show.stdout().print(str(place), markup=False, soft_wrap=True)
