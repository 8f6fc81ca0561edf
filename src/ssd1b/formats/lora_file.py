"""LoRA files as they are found: of each layer the two small factors whose product is added to its weight.

Reads the names of diffusers and peft (`unet.mid_block...to_q.lora_A.weight`, `.lora.down.weight`) and those
of kohya's scripts (`lora_unet_mid_block_..._to_q.lora_down.weight` with an `.alpha`). Only headers and alphas
are read. Does not know which model has these layers; no torch. LoRA: arXiv:2106.09685.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssd1b.base.errors import DamagedFileError, LayoutError
from ssd1b.formats.numbers import cast
from ssd1b.formats.safetensors_io import read_bytes, read_file
from ssd1b.formats.views import View

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
PARTS = (UNET, TEXT, TEXT_2)

# Longest first where one begins another; a name without any of them is the UNet's.
_PREFIXES = (
    ("lora_unet_", UNET),
    ("lora_te1_", TEXT),
    ("lora_te2_", TEXT_2),
    ("lora_te_", TEXT),
    ("unet.", UNET),
    ("text_encoder_2.", TEXT_2),
    ("text_encoder.", TEXT),
)
_FACTOR = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<peft>[AB])(?:\.\w+)?|[._]lora(?:_linear_layer)?[._](?P<side>down|up))\.weight"
)
_OTHER_KINDS = {"dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_w": "LoHa", "lokr_w": "LoKr"}
_METADATA = "lora_adapter_metadata"
_FLOATS = ("F16", "BF16", "F32", "F64")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Factors:
    """One layer's change: `scale` * `up` @ `down`; down (rank, in, ...), up (out, rank, ...)."""

    down: View
    up: View
    scale: float

    def fits(self, size: tuple[int, ...]) -> bool:
        """Whether the product can be added to a weight of this size, matrix or convolution."""
        numbers_in, wanted = math.prod(self.down.shape[1:]), math.prod(size[1:])
        return len(size) > 1 and (self.up.shape[0], numbers_in) == (size[0], wanted)


@dataclass(frozen=True, slots=True)
class LoraFile:
    """What a LoRA file changes.

    Attributes:
        parts: "unet", "text_encoder", "text_encoder_2" -> layer -> factors. Layers are called as in diffusers
            or as in LDM, with every dot written as an underscore, as kohya's scripts do.
        digest: SHA-256 of the file.
        data_digest: SHA-256 of what follows its header: the hash by which A1111 knows a LoRA.
    """

    path: Path
    parts: Mapping[str, Mapping[str, Factors]]
    digest: str
    data_digest: str

    @property
    def name(self) -> str:
        """The file's name without folder and suffix."""
        return self.path.stem


def read_lora(path: Path) -> LoraFile:
    """Read what a LoRA file changes, the factors themselves aside.

    Raises:
        MissingFileError: there is no such file.
        DamagedFileError: it is not safetensors by content, or half of a layer is missing.
        LayoutError: it holds something else than LoRA, or another kind of it.
    """
    file = read_file(path)
    halves: dict[tuple[str, str], dict[str, View]] = {}
    alphas: dict[tuple[str, str], float] = {}
    strangers = []
    for name, view in file.tensors.items():
        found = _FACTOR.fullmatch(name)
        if found:
            side = found["side"] or {"A": "down", "B": "up"}[found["peft"]]
            halves.setdefault(_place(found["layer"]), {})[side] = view
        elif name.endswith(".alpha"):
            alphas[_place(name.removesuffix(".alpha"))] = _number(path, name, view)
        else:
            strangers.append(name)
    _refuse_strangers(path, strangers, empty=not halves)
    said = _Said.of(path, file.metadata)
    parts: dict[str, dict[str, Factors]] = {part: {} for part in PARTS}
    for (part, layer), pair in halves.items():
        rank = _rank(path, layer, pair)
        alpha = alphas.get((part, layer))
        scale = said.scale(part, layer, rank) if alpha is None else alpha / rank
        parts[part][layer] = Factors(pair["down"], pair["up"], scale)
    return LoraFile(path, parts, *_digests(path))


@dataclass(frozen=True, slots=True)
class _Said:
    """What newer diffusers versions write into the header: peft's configuration of each part."""

    fields: Mapping[str, object]

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, str]) -> _Said:
        try:
            fields = json.loads(metadata.get(_METADATA, "{}"))
        except ValueError as error:
            raise DamagedFileError(
                f"The LoRA settings in the header of {path} are no JSON: {error}."
            ) from error
        return cls(fields if isinstance(fields, dict) else {})

    def scale(self, part: str, layer: str, rank: int) -> float:
        """As peft scales: alpha / rank, or alpha / sqrt(rank) for rsLoRA; 1 where nothing is said."""
        alpha = self.fields.get(f"{part}.lora_alpha")
        patterns = self.fields.get(f"{part}.alpha_pattern")
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            flat = re.escape(_flat(pattern))
            if re.fullmatch(rf"(.*_)?{flat}", layer):
                alpha = value
        if not isinstance(alpha, int | float):
            return 1.0
        return alpha / (math.sqrt(rank) if self.fields.get(f"{part}.use_rslora") else rank)


def _place(name: str) -> tuple[str, str]:
    """Part and layer that a name before ".lora..." or ".alpha" means."""
    name = name.removeprefix("base_model.model.")
    part, rest = next(
        ((part, name.removeprefix(prefix)) for prefix, part in _PREFIXES if name.startswith(prefix)),
        (UNET, name),
    )
    if ".processor." in rest:  # of diffusers before peft: attn1.processor.to_out_lora
        rest = re.sub(r"\.to_out$", ".to_out.0", rest.replace(".processor.", "."))
    return part, _flat(rest) if part == UNET else _flat(rest).removeprefix("text_model_")


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _number(path: Path, name: str, view: View) -> float:
    if math.prod(view.shape) != 1 or view.dtype not in _FLOATS:
        raise DamagedFileError(f"{path}: {name} is no number but {view.dtype} of {view.shape}.")
    return float(struct.unpack("<d", cast(read_bytes(view), view.dtype, "F64"))[0])


def _rank(path: Path, layer: str, pair: Mapping[str, View]) -> int:
    """The inner side of the product; both factors must be there and agree on it."""
    if len(pair) < 2:
        raise DamagedFileError(
            f"{path} is not complete: layer {layer} has only its '{next(iter(pair))}' factor. Download it"
            " again."
        )
    down, up = pair["down"], pair["up"]
    shapes_fit = len(down.shape) > 1 and len(up.shape) > 1 and down.shape[0] == math.prod(up.shape[1:]) > 0
    if not shapes_fit or not {down.dtype, up.dtype} <= set(_FLOATS):
        raise DamagedFileError(
            f"{path} is damaged: the factors of layer {layer}, {down.dtype} of {down.shape} and {up.dtype} of"
            f" {up.shape}, have no product. Download it again."
        )
    return down.shape[0]


def _refuse_strangers(path: Path, strangers: list[str], *, empty: bool) -> None:
    kinds = {kind for name in strangers for sign, kind in _OTHER_KINDS.items() if sign in name}
    if kinds:
        raise LayoutError(
            f"{path} holds {' and '.join(sorted(kinds))}, which is not read here; only plain LoRA is (two"
            " factors a layer). Convert it, or use a LoRA file."
        )
    if empty:
        raise LayoutError(f"{path} holds no LoRA: none of its tensors is called as its factors are.")
    if strangers:
        raise LayoutError(
            f"{path} holds more than LoRA: {len(strangers)} tensors such as {strangers[0]!r} are no factors"
            " of a layer, and a picture without them would not be what the file promises. Use a plain LoRA"
            " file."
        )


def _digests(path: Path) -> tuple[str, str]:
    """SHA-256 of the whole file, and of what follows its header."""
    whole, data = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        length = file.read(8)
        whole.update(length + file.read(int.from_bytes(length, "little")))
        while chunk := file.read(_CHUNK_BYTES):
            whole.update(chunk)
            data.update(chunk)
    return whole.hexdigest(), data.hexdigest()
