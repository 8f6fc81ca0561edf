"""An exported UNet as a denoiser: in one piece or cut, rows together or apart.

What sees only the text is run once for as long as the text stays the same, the time embedding in float32
whatever the rest is computed in. Does not know how networks are compiled, nor prompts or schedulers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssd1b.generate.engines.torch import guidance_embedding
from ssd1b.generate.openvino.cut import (
    DEEP,
    LATENT,
    TEXT,
    TIME,
    Cut,
    from_deep,
    keeping_deep,
    only_text,
    only_time,
    whole,
    without_text,
    without_time,
)
from ssd1b.generate.openvino.engine import Network, Settings

if TYPE_CHECKING:
    from ssd1b.generate.engines import Conditioning

ROWS_APART_FROM = 48 * 48
"""From this many latents a row (384 px square) rows are run one by one: a core is busy with one, and memory
is halved."""


@dataclass(slots=True)
class TextStates:
    """Keys and values of the text, kept until another text comes."""

    network: Network
    _context_BTC: Tensor | None = None
    _states: dict[str, Tensor] = field(default_factory=dict)

    def of(self, context_BTC: Tensor) -> dict[str, Tensor]:
        """By the names of the inputs that take them."""
        known = self._context_BTC
        if known is None or known.shape != context_BTC.shape or not torch.equal(known, context_BTC):
            found = self.network.run({TEXT: context_BTC})
            self._states = {name: state.clone() for name, state in found.items()}
            self._context_BTC = context_BTC.clone()
        return self._states

    def forget(self) -> None:
        """Let the next text be new, whatever it says."""
        self._context_BTC = None


@dataclass(frozen=True, slots=True)
class OpenVINODenoiser:
    """A `DeepDenoiser` that runs an exported UNet, its body whole or cut in two.

    Attributes:
        body: all but what sees only the text, and but the time embedding.
        keeping: the same, with the deep features as a second answer.
        top: what is at full resolution.
        time: the time embedding.
        text: the keys and values of the text.
        guidance_channels: for a UNet that takes guidance as an input.
    """

    body: Network
    keeping: Network
    top: Network
    time: Network
    text: TextStates
    guidance_channels: int | None = None

    def predict_noise(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> Tensor:
        """Run the UNet; large pictures row by row."""
        inputs = self._top_inputs(latent_BCHW, step_B, cond) | self._text_inputs(cond)
        return _by_rows(self.body, inputs)["out_sample"].to(latent_BCHW.dtype)

    def predict_keeping(
        self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """Run the UNet with a second output where its last block begins."""
        inputs = self._top_inputs(latent_BCHW, step_B, cond) | self._text_inputs(cond)
        found = _by_rows(self.keeping, inputs)
        return found["out_sample"].to(latent_BCHW.dtype), found[DEEP]

    def predict_from(
        self, deep_BCHW: Tensor, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning
    ) -> Tensor:
        """Run only what is at full resolution."""
        inputs = self._top_inputs(latent_BCHW, step_B, cond)
        return _by_rows(self.top, {**inputs, DEEP: deep_BCHW})["out_sample"].to(latent_BCHW.dtype)

    def _top_inputs(self, latent_BCHW: Tensor, step_B: Tensor, cond: Conditioning) -> dict[str, Tensor]:
        """Latents and time embedding."""
        told = unet_inputs(latent_BCHW, step_B, cond, self.guidance_channels)
        del told[TEXT]
        return {LATENT: told[LATENT], TIME: self.time.run(told)[TIME]}

    def _text_inputs(self, cond: Conditioning) -> dict[str, Tensor]:
        return self.text.of(cond.context_BTC.float())


def denoiser_of(folder: Path, settings: Settings, guidance_channels: int | None = None) -> OpenVINODenoiser:
    """The exported UNet in `folder`; its pieces are compiled when they are first needed.

    The time embedding is computed in float32, whatever the settings say.
    """
    body, keeping, top = (Network(folder, settings, _rest(part)) for part in (whole, keeping_deep, from_deep))
    time = Network(folder, replace(settings, precision="f32"), only_time)
    text = TextStates(Network(folder, settings, only_text))
    return OpenVINODenoiser(body, keeping, top, time, text, guidance_channels)


def _rest(part: Cut) -> Cut:
    """The same cut of a UNet that is given its time embedding, and keys and values of the text."""
    return lambda model: part(without_text(without_time(model)))


def _by_rows(network: Network, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run all rows at once, or large pictures row by row."""
    n_rows, _, height, width = inputs["sample"].shape
    at_once = 1 if height * width >= ROWS_APART_FROM else n_rows
    found = [
        network.run({name: value[row : row + at_once] for name, value in inputs.items()})
        for row in range(0, n_rows, at_once)
    ]
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


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
