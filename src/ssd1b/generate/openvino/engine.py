"""Exported networks, compiled for one size at a time and run.

Static shapes are markedly faster than open ones, so a network is compiled for each bucket (rows, height,
width) when it is first asked for, and only the last few are kept. What OpenVINO compiles it keeps on disk,
per version and processor. Does not know prompts, schedulers or pictures.
"""

from __future__ import annotations

import hashlib
import platform
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ssd1b.base.files import cache_folder
from ssd1b.formats.openvino_ir import IR_FILE
from ssd1b.generate.openvino import version
from ssd1b.generate.openvino.cut import Cut, whole
from ssd1b.models.encoders import denormalised, normalised

if TYPE_CHECKING:
    import openvino

KEPT_BUCKETS = 3

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """How networks are compiled.

    Attributes:
        device: OpenVINO's name of the device.
        precision: numbers computed with where a layer is not of eight bits: "f32" or "bf16"; "auto" is
            bf16 beside eight bits where the processor has products of it, else f32.
        threads: 0 leaves the number to OpenVINO.
    """

    device: str = "CPU"
    precision: str = "auto"
    threads: int = 0

    def properties(self) -> dict[str, Any]:
        """As OpenVINO wants them."""
        said: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",
            "CACHE_DIR": str(compiled_folder()),
            # Without the weights, which are in the export: with them, nine sizes take 14 GB of disk, and
            # both files are mapped while one is read (4.9 GB of memory instead of 3.5, SSD-1B in int8).
            "CACHE_MODE": "OPTIMIZE_SIZE",
        }
        return said | ({"INFERENCE_NUM_THREADS": self.threads} if self.threads else {})

    def settled(self, *, eight_bits: bool) -> Settings:
        """With the precision chosen for this processor, where it was left open."""
        if self.precision != "auto":
            return self
        return replace(self, precision="bf16" if eight_bits and _has_bfloat16(self.device) else "f32")


def _has_bfloat16(device: str) -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property(device, "OPTIMIZATION_CAPABILITIES")


def compiled_folder() -> Path:
    """Where compiled networks are kept: another version or processor finds an empty place."""
    about = f"{version()}\0{_processor()}"
    return cache_folder() / "openvino" / hashlib.blake2b(about.encode(), digest_size=8).hexdigest()


@dataclass(slots=True)
class Network:
    """One exported network; `run` compiles it for the shapes at hand."""

    folder: Path
    settings: Settings
    part: Cut = whole
    _compiled: OrderedDict[Shapes, openvino.CompiledModel] = field(default_factory=OrderedDict)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once; the answers by their names, float tensors on the processor."""
        arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in inputs.items()}
        shapes = tuple((name, tuple(value.shape)) for name, value in inputs.items())
        found = self.compiled(shapes)(arrays, share_inputs=True)
        return {port.any_name: torch.from_numpy(array) for port, array in found.items()}

    def compiled(self, shapes: Shapes) -> openvino.CompiledModel:
        """The network for these input shapes, compiled now unless it was lately."""
        if shapes in self._compiled:
            self._compiled.move_to_end(shapes)
            return self._compiled[shapes]
        while len(self._compiled) >= KEPT_BUCKETS:
            self._compiled.popitem(last=False)
        self._compiled[shapes] = _compile(self.folder / IR_FILE, self.part, shapes, self.settings)
        return self._compiled[shapes]


@dataclass(frozen=True, slots=True)
class OpenVINOAutoencoder:
    """An `Autoencoder` of two exported networks; `config` is vae/config.json."""

    encoder: Network
    decoder: Network
    config: Mapping[str, Any]

    def encode(self, pixels_BCHW: Tensor, noise_BCHW: Tensor | None = None) -> Tensor:
        """Pixels in -1..1 to scaled latents: the mean of the posterior or, with noise, a sample of it."""
        rows = [self.encoder.run({"sample": row[None].float()})["latent_parameters"] for row in pixels_BCHW]
        latent_BCHW, logvar_BCHW = torch.cat(rows).chunk(2, dim=1)
        if noise_BCHW is not None:  # bounds as in diffusers' DiagonalGaussianDistribution
            latent_BCHW = latent_BCHW + torch.exp(0.5 * logvar_BCHW.clamp(-30, 20)) * noise_BCHW
        return normalised(self.config, latent_BCHW)

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Scaled latents to pixels in 0..1, float32."""
        plain_BCHW = denormalised(self.config, latent_BCHW.float())
        rows = [self.decoder.run({"latent_sample": row[None]})["sample"] for row in plain_BCHW]
        return (torch.cat(rows) * 0.5 + 0.5).clamp(0, 1)


@dataclass(frozen=True, slots=True)
class OpenVINOTextEncoder:
    """A `TextEncoder` that runs an exported CLIP of `n_layers` layers."""

    network: Network
    n_layers: int
    pooled: str

    def hidden(self, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Second to last hidden state and pooled text."""
        rows = [self.network.run({"input_ids": row[None].long()}) for row in ids_BT]
        context_BTC = torch.cat([row[f"hidden_states.{self.n_layers - 1}"] for row in rows])
        return context_BTC, torch.cat([row[self.pooled] for row in rows])


def _compile(path: Path, part: Cut, shapes: Shapes, settings: Settings) -> openvino.CompiledModel:
    import openvino

    core = openvino.Core()
    model = part(core.read_model(path))
    model.reshape({name: openvino.PartialShape(list(shape)) for name, shape in shapes})
    compiled_folder().mkdir(parents=True, exist_ok=True)
    return core.compile_model(model, settings.device, settings.properties())


def _processor() -> str:
    """The processor's name and abilities, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text(errors="replace").splitlines()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )
