"""The files a benchmark runs on: random models of true size, and their exports, kept between runs.

    <cache>/bench/<plan>/            a diffusers folder with random weights
    <cache>/bench/<plan>-fp16, -int8  its exports for OpenVINO

Random weights have no quality to lose, so eight bits are calibrated on one step of two prompts and nothing is
measured layer by layer: the layers that `FREE` names stay in floating point. Does not measure time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ssd1b.base.errors import RequestError, did_you_mean
from ssd1b.base.files import cache_folder
from ssd1b.base.units import human_bytes
from ssd1b.evaluate.speed.work import Counted, counted, counted_plan
from ssd1b.formats.openvino_ir import halfway, is_export, place_of
from ssd1b.generate.load import find
from ssd1b.generate.openvino.asking import Wanted, calibration_requests
from ssd1b.generate.openvino.export import Order, export
from ssd1b.mini import embedded
from ssd1b.plan import catalog

if TYPE_CHECKING:
    from ssd1b.formats.openvino_ir import Precision

FREE = ("time", "conv_in", "conv_out")
"""Groups of layers that every export of this size keeps back: each under half a hundredth of the work."""
Heard = Callable[[str, int, int], None]


def is_random(model: str) -> bool:
    """Whether a name stands for a plan of full size whose weights are made up here."""
    return model in catalog.NAMES and not model.startswith("mini-")


def counted_of(model: str) -> Counted:
    """A model's operations and memory, without making anything.

    Raises:
        UserError: as `source`.
    """
    return counted_plan(catalog.find(model)) if is_random(model) else counted(_real(model))


def source(model: str, heard: Heard) -> Path:
    """The diffusers folder of a model; of a plan's name, one with random weights.

    Raises:
        DiskFullError: there is no room for it.
        UserError: as `generate.load.find`, for the name of a real model.
    """
    if not is_random(model):
        return _real(model)
    from ssd1b.formats.random_model import write_random

    folder = cache_folder() / "bench" / model
    if not folder.is_dir():
        write_random(catalog.find(model), folder, lambda done, total: heard(f"random {model}", done, total))
    return folder


def _real(model: str) -> Path:
    """The folder of a model that is somewhere; a name near a plan's was meant as that.

    Raises:
        UserError: there is no such model.
    """
    known = (*embedded.NAMES, *catalog.NAMES)
    if model not in embedded.NAMES and "/" not in model and not Path(model).exists():
        plans = ", ".join(name for name in catalog.NAMES if is_random(name))
        raise RequestError(
            f"No model and no plan is called '{model}'.{did_you_mean(model, known)} Plans of full size get"
            f" random weights: {plans}. A model is an embedded one, a folder, a .safetensors file, or an id"
            " on the hub."
        )
    return find(model)


def _halfway(folder: Path, random: bool) -> Path | None:
    """The export in fp16, where there is one."""
    place = folder.with_name(f"{folder.name}-fp16")
    if not random:
        return halfway(folder)
    return place if is_export(place) else None


def export_place(model: str, folder: Path, precision: Precision) -> Path:
    """Where the export of a model is, or will be. `folder` is its diffusers folder."""
    random = is_random(model)
    return folder.with_name(f"{folder.name}-{precision}") if random else place_of(folder, precision)


def too_large(model: str, folder: Path, engine: str, free: float) -> str:
    """Why a model's files for an engine cannot be made in `free` bytes of memory, or ""."""
    need = counted_of(model).conversion_memory(engine)
    precision: Precision = "int8" if engine == "openvino-int8" else "fp16"
    if need <= free or is_export(export_place(model, folder, precision)):
        return ""
    return (
        f"{model} on {engine} is left out: converting it takes about {human_bytes(need)} of memory, and"
        f" {human_bytes(free)} are free."
    )


def exported(model: str, folder: Path, precision: Precision, heard: Heard) -> Path:
    """The export of a model, made now unless it is there. `folder` is its diffusers folder.

    Raises:
        RequestError: OpenVINO or NNCF is not installed.
        LayoutError: eight bits change what a real model draws too much.
    """
    random = is_random(model)
    place = export_place(model, folder, precision)
    if is_export(place):
        return place
    wanted = Wanted(pictures=2, steps=1) if random else Wanted()
    requests = calibration_requests(folder, model, wanted) if precision == "int8" else ()
    order = Order(
        source=folder,
        name=model,
        precision=precision,
        requests=requests,
        kept_back=FREE if random else None,
        force=random,
        base=_halfway(folder, random) if precision == "int8" else None,
    )
    export(order, place, ["ssd1b", "bench"], heard)
    return place
