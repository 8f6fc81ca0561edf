"""A pipeline folder converted for OpenVINO, quantised if asked for, and judged against itself.

The new folder appears when all of it is written. Eight-bit networks that draw other pictures than the
original are refused. Does not know the command line.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from ssd1b.base.apart import Heard, run_apart
from ssd1b.base.errors import LayoutError
from ssd1b.base.files import MANIFEST, finished_folder, versions, write_manifest
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.formats.openvino_ir import (
    COPIED,
    IR_FILE,
    IR_WEIGHTS,
    NETWORKS,
    Drift,
    Precision,
    Record,
    fingerprint,
    weight_sizes,
    write_record,
)
from ssd1b.generate.openvino import convert, needed, version
from ssd1b.generate.openvino.calibrate import drift_of, picture_of, recorded, well_read
from ssd1b.generate.openvino.engine import OpenVINOAutoencoder
from ssd1b.generate.openvino.load import read_export
from ssd1b.generate.openvino.quantise import Call, quantised, smoothed
from ssd1b.models.encoders import denormalised
from ssd1b.models.folder import part_folder

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from ssd1b.generate.model import Model
    from ssd1b.generate.request import Request

MIN_PSNR_DB = 30.0
"""Eight-bit pictures below this median, against those in floating point, are refused: on the miniature
24.8 dB cost ten points of score, and 35.3 dB half a point (docs/engines.md)."""

CHECKED_CALLS = 12
"""Calls of a network that its error is measured on."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be exported.

    Attributes:
        source: a diffusers pipeline folder.
        name: what people call the model.
        precision: of the networks that weigh: UNet and VAE decoder. Text encoders and VAE encoder are fp16.
        requests: pictures to calibrate on and, the last of them, to compare on; not needed for fp16.
        kept_back: patterns of layer names that stay in floating point; None: chosen by measurement.
        force: export whatever the drift.
        base: an export of the same model in fp16, whose networks are taken over instead of converted anew.
    """

    source: Path
    name: str
    precision: Precision
    requests: Sequence[Request] = ()
    kept_back: Sequence[str] | None = None
    force: bool = False
    base: Path | None = None


def export(order: Order, out: Path, command: Sequence[str], heard: Heard) -> Record:
    """Write the export and return its record.

    Raises:
        RequestError: OpenVINO or NNCF is not installed.
        LayoutError: eight bits change the pictures too much, and `force` was not given.
        OutputExistsError, DiskFullError: nothing was written.
    """
    needed("nncf" if order.precision == "int8" else "openvino")
    with finished_folder(out) as part:
        _carry_over(order.source, part)
        for number, network in enumerate(convert.CONVERSIONS, 1):
            _convert(order, network, part / network)
            heard("converting", number, len(convert.CONVERSIONS))
        record = _record(order, part, "fp16")
        write_record(part, record)
        if order.precision == "int8":
            record = _in_eight_bits(order, part, heard)
            _refuse_drift(order, record)
            write_record(part, record)
        write_manifest(
            part,
            command=command,
            inputs={order.name: fingerprint(order.source)},
            **_carried_facts(order.source),
        )
    return record


def _convert(order: Order, network: str, out: Path) -> None:
    """Put one network into its folder, in floating point."""
    if order.base is None:
        convert.save(convert.CONVERSIONS[network](order.source), out)
        return
    for name in (IR_FILE, IR_WEIGHTS):
        shutil.copy(order.base / network / name, out / name)


def _carry_over(source: Path, part: Path) -> None:
    """Everything but the networks: index, tokenizers, scheduler, and the config of each network."""
    shutil.copy(source / "model_index.json", part / "model_index.json")
    for name in COPIED:
        shutil.copytree(part_folder(source, name), part / name)
    for network in NETWORKS:
        (part / network).mkdir()
        owner = "vae" if network.startswith("vae_") else network
        shutil.copy(part_folder(source, owner) / "config.json", part / network / "config.json")


def _carried_facts(source: Path) -> dict[str, object]:
    """What the source's manifest says that still holds: its own defaults for pictures."""
    told = read_json(source / MANIFEST) if (source / MANIFEST).is_file() else {}
    return {"generate": told["generate"]} if "generate" in told else {}


def _record(
    order: Order, part: Path, precision: Precision, kept_back: Sequence[str] = (), drift: Drift | None = None
) -> Record:
    return Record(
        precision=precision,
        source={"name": order.name, "fingerprint": fingerprint(order.source)},
        versions={**versions(), "openvino": version()},
        bytes_of=weight_sizes(part),
        kept_back=tuple(kept_back),
        drift=drift,
    )


@dataclass(frozen=True, slots=True)
class Watched:
    """What floating point did: calls (inputs and answers) of two networks, and the pictures."""

    unet_calls: Sequence[Call]
    decoder_calls: Sequence[Call]
    pictures: Sequence[np.ndarray]


def _in_eight_bits(order: Order, part: Path, heard: Heard) -> Record:
    """Record what the networks are fed, quantise UNet and VAE decoder in place, and measure the drift.

    Each stage is a process of its own: together they would take twice the memory of the largest.
    """
    seen = run_apart(_watched, order, part, heard=heard)
    run_apart(_smooth, part / "unet", seen.unet_calls, heard=heard)
    unet_kept, noise_error = run_apart(
        _quantise, part / "unet", seen.unet_calls, order.kept_back, heard=heard
    )
    run_apart(_smooth, part / "vae_decoder", seen.decoder_calls, heard=heard)
    decoder_kept, _ = run_apart(_quantise, part / "vae_decoder", seen.decoder_calls, None, heard=heard)
    write_record(part, _record(order, part, "int8"))
    drift = run_apart(_drift, order, part, seen.pictures, noise_error, heard=heard)
    kept = [*(f"unet {group}" for group in unet_kept), *(f"vae_decoder {group}" for group in decoder_kept)]
    return _record(order, part, "int8", kept_back=kept, drift=drift)


def _watched(order: Order, part: Path, heard: Heard) -> Watched:
    """Make the pictures in floating point."""
    model = well_read(lambda: read_export(order.name, part), order.requests)
    total, done = sum(request.steps for request in order.requests), count(1)
    truth = recorded(model, order.requests, lambda: heard("recording", next(done), total))
    pictures = [picture_of(model, latent_BCHW) for latent_BCHW in truth.latents]
    return Watched(truth.calls, _decoder_calls(model, truth.latents), pictures)


def _decoder_calls(model: Model, latents: Sequence[Tensor]) -> list[Call]:
    """What the VAE decoder is fed for the finished latents."""
    vae = model.vae
    assert isinstance(vae, OpenVINOAutoencoder), "an export's autoencoder is OpenVINO's"
    calls: list[Call] = []
    for latent_BCHW in latents:
        plain_BCHW = denormalised(vae.config, latent_BCHW.float())
        answer = vae.decoder.run({"latent_sample": plain_BCHW})["sample"]
        calls.append(({"latent_sample": plain_BCHW.numpy()}, answer.numpy().copy()))
    return calls


def _smooth(folder: Path, calls: Sequence[Call], heard: Heard) -> None:
    """Write one network over itself, the same but easier to compute in eight bits."""
    heard(f"smoothing {folder.name}", 0, 1)
    convert.save(smoothed(folder, [inputs for inputs, _ in calls[::2]]), folder)
    heard(f"smoothing {folder.name}", 1, 1)


def _quantise(
    folder: Path, calls: Sequence[Call], kept_back: Sequence[str] | None, heard: Heard
) -> tuple[tuple[str, ...], float]:
    """Quantise one network, write it over its floating-point self; return what was kept, and its error."""
    fit, check = calls[::2], calls[1::2][:CHECKED_CALLS]

    def on_group(done: int, total: int) -> None:
        heard(f"measuring layers of {folder.name}", done, total)

    heard(f"quantising {folder.name}", 0, 1)
    made = quantised(folder, fit, check or fit, kept_back, on_group)
    convert.save(made.model, folder)
    heard(f"quantising {folder.name}", 1, 1)
    return made.kept_back, made.error


def _drift(
    order: Order, part: Path, pictures: Sequence[np.ndarray], noise_error: float, heard: Heard
) -> Drift:
    """Draw the same pictures in eight bits and compare."""
    total, done = sum(request.steps for request in order.requests), count(1)
    model = well_read(lambda: read_export(order.name, part), order.requests)
    return drift_of(
        model, order.requests, pictures, noise_error, lambda: heard("comparing", next(done), total)
    )


def _refuse_drift(order: Order, record: Record) -> None:
    drift = record.drift
    if drift is None or drift.psnr_db >= MIN_PSNR_DB or order.force:
        return
    raise LayoutError(
        f"In eight bits {order.name} draws other pictures: their median PSNR against floating point is"
        f" {drift.psnr_db:.1f} dB over {drift.pictures} pictures, and less than {MIN_PSNR_DB:g} dB is not let"
        f" through. Nothing was written. Keep more layers back with --keep, calibrate on more pictures with"
        " --pictures, export with --precision fp16, or give --force if this is good enough for you."
    )
