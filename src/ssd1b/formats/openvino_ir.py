"""A model exported for OpenVINO: which files its folder holds, and the record that says what they are.

The folder is laid out as optimum-intel does it: model_index.json, tokenizers and scheduler as in
diffusers, and each network as `<part>/openvino_model.xml` and `.bin`. Beside them lies our own
`openvino.json`. This module does not import OpenVINO.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssd1b.base.errors import DamagedFileError, LayoutError, MissingFileError
from ssd1b.base.files import cache_folder, write_atomic

RECORD = "openvino.json"
IR_FILE, IR_WEIGHTS = "openvino_model.xml", "openvino_model.bin"
NETWORKS = ("text_encoder", "text_encoder_2", "vae_encoder", "vae_decoder", "unet")
COPIED = ("tokenizer", "tokenizer_2", "scheduler")
FORMAT = 1

Precision = Literal["fp16", "int8"]


class Drift(BaseModel):
    """How far the exported networks are from the originals, measured on pictures when they were exported.

    Attributes:
        psnr_db: median over pictures of the same requests, original engine against exported one.
        noise_error: root mean square error of the UNet's answers, over that of the answers themselves.
        pictures: how many were compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    psnr_db: float
    noise_error: float
    pictures: int


class Record(BaseModel):
    """What `openvino.json` says.

    Attributes:
        precision: "fp16": weights are stored as float16 and computed with in float32; "int8": weights and
            activations of most layers are computed with in eight bits.
        source: of what this is an export: name, and the fingerprint of its weight files.
        versions: of the packages that wrote it.
        bytes_of: size of every weight file, by its path in the folder.
        kept_back: layers that stayed in floating point because they cost too much in quality.
        drift: measured on export; None where nothing was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    precision: Precision
    source: Mapping[str, str]
    versions: Mapping[str, str]
    bytes_of: Mapping[str, int]
    kept_back: tuple[str, ...] = ()
    drift: Drift | None = Field(default=None)


def fingerprint(source: Path) -> str:
    """A short hash of a pipeline folder's files, by name, size and time, that costs no reading."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        facts = path.stat()
        digest.update(f"{path.relative_to(source)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def place_of(source: Path, precision: Precision) -> Path:
    """Where the export of a pipeline folder is kept when no place is given: changed files, another place."""
    return cache_folder() / "exports" / f"{source.name}-{fingerprint(source)}-{precision}"


def is_export(folder: Path) -> bool:
    """Whether a folder is an export for OpenVINO."""
    return (folder / RECORD).is_file()


def halfway(source: Path) -> Path | None:
    """The export in fp16 of a pipeline folder, if it is in its usual place, for one in int8 to begin with."""
    place = place_of(source, "fp16")
    return place if is_export(place) else None


def weight_sizes(folder: Path) -> dict[str, int]:
    """Sizes of the network files in a folder, for the record."""
    files = [folder / part / name for part in NETWORKS for name in (IR_FILE, IR_WEIGHTS)]
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def write_record(folder: Path, record: Record) -> None:
    """Write `openvino.json`."""
    write_atomic(folder / RECORD, json.dumps(record.model_dump(), indent=2) + "\n")


def read_record(folder: Path) -> Record:
    """Read an export's record and check that every network file is there in full.

    Raises:
        MissingFileError: a file of the export is not there.
        DamagedFileError: a file has another size than when it was written, or the record cannot be read.
        LayoutError: the export is of a later format.
    """
    path = folder / RECORD
    if not path.is_file():
        raise MissingFileError(f"{folder} is no export for OpenVINO: it has no {RECORD}.")
    try:
        told = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedFileError(f"{path} cannot be read ({error}). Export the model again.") from error
    if isinstance(told, dict) and told.get("format") != FORMAT:
        raise LayoutError(
            f"{path} is of format {told.get('format')}, and this version of ssd1b reads {FORMAT}. "
            "Export the model again."
        )
    try:
        record = Record.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DamagedFileError(f"{path}: {where}: {first['msg']}. Export the model again.") from error
    for name, size in record.bytes_of.items():
        _check_file(folder / name, size)
    return record


def _check_file(path: Path, size: int) -> None:
    if not path.is_file():
        raise MissingFileError(f"{path} is missing from the export. Export the model again.")
    found = path.stat().st_size
    if found != size:
        raise DamagedFileError(
            f"{path} has {found} bytes where its record says {size}. The copy was cut short or changed; "
            "copy or export the model again."
        )
