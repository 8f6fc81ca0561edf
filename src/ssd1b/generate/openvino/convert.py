"""The networks of a pipeline folder, traced one by one into OpenVINO's format.

One network is in memory at a time. Names of inputs, outputs and files are those of optimum-intel, so what
is written here is read by OpenVINO GenAI and its servers as well. All shapes stay open; they are fixed on
loading. Does not know how networks are run, nor eight-bit numbers.
"""

from __future__ import annotations

import gc
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ssd1b.formats.openvino_ir import IR_FILE
from ssd1b.models.encoders import load_clip, load_vae
from ssd1b.models.folder import load_unet

if TYPE_CHECKING:
    import openvino
    from diffusers import AutoencoderKL

_CPU, _F32 = torch.device("cpu"), torch.float32
# Sides that are no multiple of four latents make diffusers trace the path that fits every size.
_HEIGHT, _WIDTH = 14, 18
_BEYOND_HALF = 2.0**60
"""A power of two so large that float16 holds neither it nor, divided by it, any number about one."""


class _UNet(nn.Module):
    """diffusers' UNet with plain tensors for arguments."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, *added: Tensor
    ) -> Tensor:
        """`added`: text_embeds, time_ids and, for models that take guidance as an input, timestep_cond."""
        out: Tensor = self.unet(
            sample,
            timestep,
            encoder_hidden_states=encoder_hidden_states,
            timestep_cond=added[2] if len(added) > 2 else None,
            added_cond_kwargs={"text_embeds": added[0], "time_ids": added[1]},
            return_dict=False,
        )[0]
        return out


class _Decoder(nn.Module):
    """Plain (unscaled) latents to pixels in -1..1."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Tensor) -> Tensor:
        """Decode."""
        out: Tensor = self.vae.decode(latent_sample, return_dict=False)[0]
        return out


class _Encoder(nn.Module):
    """Pixels in -1..1 to the mean and the log-variance of plain latents, one after the other in channels."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, sample: Tensor) -> Tensor:
        """Encode."""
        out: Tensor = self.vae.encode(sample, return_dict=False)[0].parameters
        return out


class _Text(nn.Module):
    """Token ids to the pooled text and all hidden states."""

    def __init__(self, encoder: nn.Module, pooled: str) -> None:
        super().__init__()
        self.encoder, self.pooled = encoder, pooled

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """Run the encoder."""
        out = self.encoder(input_ids, output_hidden_states=True)
        return (out[self.pooled], out.last_hidden_state, *out.hidden_states)


def convert_unet(folder: Path) -> openvino.Model:
    """Trace the UNet of a diffusers folder."""
    unet = load_unet(folder, device=_CPU, dtype=_F32).requires_grad_(False)
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    inputs = {
        "sample": torch.randn(2, config.in_channels, _HEIGHT, _WIDTH),
        "timestep": torch.tensor([999, 1]),
        "encoder_hidden_states": torch.randn(2, 7, config.cross_attention_dim),
        "text_embeds": torch.randn(2, pooled),
        "time_ids": torch.full((2, 6), 64.0),
    }
    if config.time_cond_proj_dim is not None:
        inputs["timestep_cond"] = torch.randn(2, config.time_cond_proj_dim)
    return _with_exact_angles(_traced(_UNet(unet), inputs, ["out_sample"]))


def convert_decoder(folder: Path) -> openvino.Model:
    """Trace the decoding half of the autoencoder."""
    vae = load_vae(folder, device=_CPU, dtype=_F32)
    latent = torch.randn(1, vae.config.latent_channels, _HEIGHT, _WIDTH)
    return _traced(_Decoder(vae), {"latent_sample": latent}, ["sample"])


def convert_encoder(folder: Path) -> openvino.Model:
    """Trace the encoding half of the autoencoder."""
    vae = load_vae(folder, device=_CPU, dtype=_F32)
    pixels = torch.rand(1, 3, 8 * _HEIGHT, 8 * _WIDTH) * 2 - 1
    return _traced(_Encoder(vae), {"sample": pixels}, ["latent_parameters"])


def convert_text(folder: Path, part: str) -> openvino.Model:
    """Trace one text encoder, `part` being "text_encoder" or "text_encoder_2"."""
    encoder = load_clip(folder, part, device=_CPU, dtype=_F32).model
    pooled = "text_embeds" if part == "text_encoder_2" else "pooler_output"
    ids = torch.full((2, encoder.config.max_position_embeddings), 3)
    ids[:, -1] = encoder.config.eos_token_id
    layers = [f"hidden_states.{number}" for number in range(encoder.config.num_hidden_layers + 1)]
    return _traced(_Text(encoder, pooled), {"input_ids": ids}, [pooled, "last_hidden_state", *layers])


CONVERSIONS: dict[str, Callable[[Path], openvino.Model]] = {
    "text_encoder": lambda folder: convert_text(folder, "text_encoder"),
    "text_encoder_2": lambda folder: convert_text(folder, "text_encoder_2"),
    "vae_encoder": convert_encoder,
    "vae_decoder": convert_decoder,
    "unet": convert_unet,
}


def save(model: openvino.Model, out: Path, *, half: bool = True) -> None:
    """Write a network as OUT/openvino_model.xml and .bin; with `half`, float weights as float16.

    The network may come from the same folder: its weights are mapped from the file there, which is replaced
    and never written over.
    """
    import openvino

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as fresh:
        openvino.save_model(model, Path(fresh) / IR_FILE, compress_to_fp16=half)
        for path in Path(fresh).iterdir():
            path.replace(out / path.name)


def _traced(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> openvino.Model:
    """Trace with these example inputs, all of whose named dimensions but the channels stay open."""
    import openvino

    with _quiet(), torch.inference_mode():
        model = openvino.convert_model(module.eval(), example_input=_as_call(inputs))
    for port, name in zip(model.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
    for port, name in zip(model.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    gc.collect()
    return model


def _with_exact_angles(model: openvino.Model) -> openvino.Model:
    """Keep the frequencies of the sinusoidal embeddings in float32 when weights are saved as float16.

    A frequency is multiplied by timesteps up to 999 and sizes of thousands of pixels: rounded to eleven bits,
    the angle is wrong by a quarter of a radian. OpenVINO leaves a constant in float32 where float16 cannot
    hold it at all, so the frequencies are shrunk by a power of two and what meets them is grown by it: exact.
    """
    import openvino
    from openvino import opset15 as ops

    waves = [op for op in model.get_ordered_ops() if op.get_type_name() in ("Sin", "Cos")]
    angles = [op.input_value(0).get_node() for op in waves]
    for product in {angle.get_friendly_name(): angle for angle in angles}.values():
        for here, there in ((0, 1), (1, 0)):
            table = product.input_value(here).get_node()
            if product.get_type_name() == "Multiply" and table.get_type_name() == "Constant":
                small = ops.constant(table.data * np.float32(1 / _BEYOND_HALF), openvino.Type.f32)
                grown = ops.multiply(product.input_value(there), ops.constant(np.float32(_BEYOND_HALF)))
                product.input(here).replace_source_output(small.output(0))
                product.input(there).replace_source_output(grown.output(0))
    return model


def _as_call(inputs: dict[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
    """One tensor as itself, several as the arguments of `forward`, in order."""
    values = tuple(inputs.values())
    return values if len(values) > 1 else values[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks about Python values in traced code: shapes are checked by the parity tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
