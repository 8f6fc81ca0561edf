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
from ssd1b.generate.engines.torch import guidance_embedding
from ssd1b.generate.openvino import version
from ssd1b.generate.openvino.cut import (
    DEEP,
    LATENT,
    TEXT,
    TIME,
    Cut,
    from_deep,
    keeping_deep,
    only_time,
    whole,
    without_time,
)
from ssd1b.models.encoders import denormalised, normalised

if TYPE_CHECKING:
    import openvino

    from ssd1b.generate.engines import Conditioning

KEPT_BUCKETS = 3
ROWS_APART_FROM = 48 * 48
"""From this many latents a row (384 px square) rows are run one by one: a core is busy with one, and memory
is halved."""

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
class OpenVINODenoiser:
    """A `DeepDenoiser` that runs an exported UNet, in one piece or cut in two."""

    unet: Network
    guidance_channels: int | None = None
    keeping: Network | None = None
    top: Network | None = None
    time: Network | None = None

    def predict_noise(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """Run the UNet; large pictures row by row."""
        inputs = self._inputs(latent_BCHW, step_B, cond)
        return _by_rows(self.unet, inputs)["out_sample"].to(latent_BCHW.dtype)

    def predict_keeping(
        self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """Run the UNet with a second output where its last block begins."""
        assert self.keeping is not None, "made by `denoiser_of`"
        found = _by_rows(self.keeping, self._inputs(latent_BCHW, step_B, cond))
        return found["out_sample"].to(latent_BCHW.dtype), found[DEEP]

    def predict_from(
        self, deep_BCHW: Tensor, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning
    ) -> Tensor:
        """Run only what is at full resolution."""
        assert self.top is not None, "made by `denoiser_of`"
        inputs = self._inputs(latent_BCHW, step_B, cond)
        del inputs[TEXT]
        return _by_rows(self.top, {**inputs, DEEP: deep_BCHW})["out_sample"].to(latent_BCHW.dtype)

    def _inputs(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> dict[str, Tensor]:
        """What the networks are fed; the time embedding is computed first where they do not do it."""
        inputs = unet_inputs(latent_BCHW, step_B, cond, self.guidance_channels)
        if self.time is None:
            return inputs
        told = {name: value for name, value in inputs.items() if name != TEXT}
        return {LATENT: inputs[LATENT], TEXT: inputs[TEXT], TIME: self.time.run(told)[TIME]}


def denoiser_of(folder: Path, settings: Settings, guidance_channels: int | None = None) -> OpenVINODenoiser:
    """The exported UNet in `folder`; its pieces are compiled when they are first needed.

    In bfloat16 the time embedding is a network of its own, in float32.
    """
    cuts: tuple[Cut, ...] = (whole, keeping_deep, from_deep)
    if settings.precision == "f32":
        unet, keeping, top = (Network(folder, settings, part) for part in cuts)
        return OpenVINODenoiser(unet, guidance_channels, keeping, top)
    unet, keeping, top = (Network(folder, settings, _timeless(part)) for part in cuts)
    time = Network(folder, replace(settings, precision="f32"), only_time)
    return OpenVINODenoiser(unet, guidance_channels, keeping, top, time)


def _timeless(part: Cut) -> Cut:
    """The same cut of a UNet that is given its time embedding."""
    return lambda model: part(without_time(model))


def _by_rows(network: Network, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run all rows at once, or large pictures row by row."""
    n_rows, _, height, width = inputs["sample"].shape
    at_once = 1 if height * width >= ROWS_APART_FROM else n_rows
    found = [
        network.run({name: value[row : row + at_once] for name, value in inputs.items()})
        for row in range(0, n_rows, at_once)
    ]
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


@dataclass(frozen=True, slots=True)
class OpenVINOAutoencoder:
    """An `Autoencoder` of two exported networks; `config` is vae/config.json."""

    encoder: Network
    decoder: Network
    config: Mapping[str, Any]

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Pixels in -1..1 to scaled latents, the mean of the posterior."""
        rows = [self.encoder.run({"sample": row[None].float()})["latent_parameters"] for row in pixels_BCHW]
        mean_BCHW = torch.cat(rows).chunk(2, dim=1)[0]
        return normalised(self.config, mean_BCHW)

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


def unet_inputs(
    latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning, guidance_channels: int | None = None
) -> dict[str, Tensor]:
    """The arguments of an exported UNet, by name; `guidance_channels` where it takes guidance as an input."""
    inputs = {
        "sample": latent_BCHW.float(),
        "timestep": step_B.long(),
        "encoder_hidden_states": cond.context_BTC.float(),
        "text_embeds": cond.pooled_BC.float(),
        "time_ids": cond.time_ids_B6.float(),
    }
    if guidance_channels is not None and cond.guidance_B is not None:
        inputs["timestep_cond"] = guidance_embedding(cond.guidance_B, guidance_channels)
    return inputs


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
