"""LoRA adapters put onto a model: their products are added to the weights, and taken off again exactly.

The changes of all adapters are summed in float32 and rounded into each weight once, so that pictures cost
nothing more than without. Only torch's weights can be changed. Does not know how files name their layers.
LoRA: arXiv:2106.09685.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from ssd1b.base.errors import RequestError
from ssd1b.formats.lora_file import PARTS, TEXT, TEXT_2, UNET, Factors, LoraFile, read_lora
from ssd1b.formats.lora_layout import Fit, fit_unet, places, refuse_strangers
from ssd1b.formats.safetensors_io import read_bytes
from ssd1b.generate.engines.torch import TorchDenoiser
from ssd1b.generate.model import KnownText
from ssd1b.generate.request import MAX_WEIGHT, Worn
from ssd1b.models.encoders import CLIPEncoder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssd1b.formats.views import View
    from ssd1b.generate.model import Model

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA file, and how strongly it is worn: 1 as it was trained, below 0 the other way."""

    lora: LoraFile
    weight: float = 1.0

    def worn(self) -> Worn:
        """What a picture says of it."""
        lora = self.lora
        return Worn(name=lora.name, weight=self.weight, digest=lora.digest, data_digest=lora.data_digest)


@dataclass(frozen=True, slots=True)
class _Change:
    factors: Factors
    weight: float


def parse_adapter(text: str) -> tuple[Path, float | None]:
    """Read "style.safetensors:0.8" as file and weight; None where no weight was said.

    Raises:
        RequestError: the weight is out of range.
    """
    path, colon, last = text.rpartition(":")
    try:
        weight = float(last)
    except ValueError:
        return Path(text), None
    if not colon or Path(text).is_file():
        return Path(text), None
    if not abs(weight) <= MAX_WEIGHT:
        raise RequestError(
            f"A LoRA's weight goes from -{MAX_WEIGHT} to {MAX_WEIGHT}; '{text}' was asked for."
        )
    return Path(path), weight


def read_adapter(text: str, like: Sequence[Worn] = ()) -> Adapter:
    """A file in a person's words; where no weight was said, that of the same file in `like`, else 1.

    Raises:
        RequestError: as `parse_adapter`.
        MissingFileError, DamagedFileError, LayoutError: as `formats.lora_file.read_lora`.
    """
    path, weight = parse_adapter(text)
    lora = read_lora(path.expanduser())
    before = next((each.weight for each in like if each.digest == lora.digest), 1.0)
    return Adapter(lora, before if weight is None else weight)


def put_on(model: Model, adapters: Sequence[Adapter], note: Note) -> Model:
    """Add adapters to the weights of a model, for good; `note` hears a line about each.

    Raises:
        RequestError: another engine than torch runs the model.
        LayoutError: a file does not fit it; no weight has been changed then.
    """
    with torch.inference_mode(False), torch.no_grad():
        for weight, changes in _changes(model, adapters, note).items():
            weight.copy_(_changed(weight, changes))
    worn = (*model.adapters, *(adapter.worn() for adapter in adapters))
    return replace(model, adapters=worn, known_text=KnownText())


@contextmanager
def wearing(model: Model, adapters: Sequence[Adapter], note: Note) -> Iterator[Model]:
    """As `put_on`, and behind the block every changed weight is as it was, to the bit.

    Copies of the weights that change are kept meanwhile, on their device.
    """
    before = {weight: weight.detach().clone() for weight in _changes(model, adapters, lambda _: None)}
    try:
        yield put_on(model, adapters, note)
    finally:
        with torch.no_grad():
            for weight, value in before.items():
                weight.copy_(value)


def _changes(model: Model, adapters: Sequence[Adapter], note: Note) -> dict[nn.Parameter, list[_Change]]:
    """What is to be added to which weight, after every file was found to fit."""
    networks = _networks(model)
    changes: dict[nn.Parameter, list[_Change]] = {}
    for adapter in adapters:
        for part, fit in _fits(model, networks, adapter.lora).items():
            if part == UNET and fit.n_layers:
                note(f"{adapter.lora.path.name} {fit.in_words(model.name)}.")
            for module, layer in fit.placed.items():
                weight = networks[part].get_parameter(f"{module}.weight")
                factors = adapter.lora.parts[part][layer]
                changes.setdefault(weight, []).append(_Change(factors, adapter.weight))
            if part != UNET and fit.dropped:
                note(f"{adapter.lora.path.name}: {len(fit.dropped)} layers of {part} do not fit; left out.")
    return changes


def _fits(model: Model, networks: Mapping[str, nn.Module], lora: LoraFile) -> dict[str, Fit]:
    fits = {UNET: fit_unet(lora, model.shape)}
    refuse_strangers(lora, fits[UNET], model.name)
    for part in (TEXT, TEXT_2):
        fits[part] = places(lora.parts[part], _linear(networks[part]))
    if not any(fit.placed for fit in fits.values()):
        raise RequestError(f"No layer of {lora.path} fits {model.name}. Use a LoRA made for SDXL.")
    return fits


def _networks(model: Model) -> dict[str, nn.Module]:
    denoiser, encoders = model.denoiser, model.text.encoders
    if not isinstance(denoiser, TorchDenoiser) or not all(isinstance(each, CLIPEncoder) for each in encoders):
        raise RequestError(
            f"LoRA adapters change torch's weights, and {model.engine} runs {model.name}. Load it for torch."
        )
    texts = [cast("CLIPEncoder", encoder).model for encoder in encoders]
    return dict(zip(PARTS, (denoiser.unet, *texts), strict=True))


def _linear(network: nn.Module) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The matrices of a text encoder by the flat names of files, which leave out its "text_model"."""
    named = {}
    for module, layer in network.named_modules():
        if isinstance(layer, torch.nn.Linear):
            flat = module.removeprefix("text_model.").replace(".", "_")
            named[flat] = (module, tuple(layer.weight.shape))
    return named


def _changed(weight: nn.Parameter, changes: Sequence[_Change]) -> Tensor:
    """The weight with all its changes, summed in float32 and rounded once."""
    total = weight.detach().float()
    for change in changes:
        up, down = (_matrix(view, weight.device) for view in (change.factors.up, change.factors.down))
        total = total + change.weight * change.factors.scale * (up @ down).view(weight.shape)
    return total.to(weight.dtype)


def _matrix(view: View, device: torch.device) -> Tensor:
    """A factor as a float32 matrix: of a convolution, all behind the first side is one."""
    numbers = torch.frombuffer(bytearray(read_bytes(view)), dtype=_DTYPES[view.dtype])
    return numbers.to(device, torch.float32).view(view.shape[0], math.prod(view.shape[1:]))
