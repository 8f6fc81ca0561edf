"""What people run today, on the same files: stock diffusers, stock OpenVINO, stable-diffusion.cpp.

Each is set up as its own documentation has it. A peer that is not installed is left out with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ssd1b.evaluate.speed.runners import PROMPT, Runner, conditioning, latent_of
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.plan.shape import shape_of

if TYPE_CHECKING:
    import openvino
    from diffusers import StableDiffusionXLPipeline

SDCPP = "stable_diffusion_cpp"


class Diffusers:
    """`StableDiffusionXLPipeline` in float32, its modules called as it calls them, without gradients."""

    compiled = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shape = shape_of(read_json(folder / "unet" / "config.json"))

    @torch.no_grad()
    def text(self, px: tuple[int, int]) -> None:
        """Encode one prompt, without the negative one."""
        self.pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)

    @torch.no_grad()
    def unet(self, px: tuple[int, int]) -> None:
        """One UNet call."""
        cond = conditioning(self.shape, px)
        added = {"text_embeds": cond.pooled_BC, "time_ids": cond.time_ids_B6}
        self.pipe.unet(
            latent_of(self.shape, px),
            torch.tensor(500),
            encoder_hidden_states=cond.context_BTC,
            added_cond_kwargs=added,
            return_dict=False,
        )

    @torch.no_grad()
    def decode(self, px: tuple[int, int]) -> None:
        """Decode one picture."""
        latent_BCHW = latent_of(self.shape, px) / self.pipe.vae.config.scaling_factor
        self.pipe.vae.decode(latent_BCHW, return_dict=False)

    @cached_property
    def pipe(self) -> StableDiffusionXLPipeline:
        """The stock pipeline."""
        from diffusers import StableDiffusionXLPipeline

        pipe = StableDiffusionXLPipeline.from_pretrained(self.folder, dtype=torch.float32)
        if self.compiled:
            pipe.unet = torch.compile(pipe.unet)
        return pipe


class DiffusersCompiled(Diffusers):
    """With `torch.compile(pipe.unet)`, as the documentation has it."""

    compiled = True


class StockOpenVINO:
    """`openvino.convert_model` and `compile_model` with nothing said: open shapes, default properties."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shape = shape_of(read_json(folder / "unet" / "config.json"))

    def unet(self, px: tuple[int, int]) -> None:
        """One UNet call."""
        from ssd1b.generate.openvino.denoiser import unet_inputs

        inputs = unet_inputs(latent_of(self.shape, px), torch.tensor([500]), conditioning(self.shape, px))
        self._unet({name: value.numpy() for name, value in inputs.items()})

    @cached_property
    def _unet(self) -> openvino.CompiledModel:
        import openvino

        from ssd1b.formats.openvino_ir import IR_FILE

        return openvino.Core().compile_model(self.folder / "unet" / IR_FILE, "CPU")


class StableDiffusionCpp:
    """stable-diffusion.cpp with q8_0 weights, quantised while it loads the model as a single file.

    Of a diffusers folder it does not recognise SSD-1B's layout.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marks: list[float] = []

    def unet(self, px: tuple[int, int]) -> float:
        """The median second between two steps of four, without guidance."""
        self.marks = []
        self._program.generate_image(
            prompt=PROMPT,
            width=px[0],
            height=px[1],
            sample_steps=4,
            cfg_scale=1.0,
            sample_method="euler",
            seed=1,
            progress_callback=self._mark,
        )
        gaps = sorted(late - soon for soon, late in zip(self.marks, self.marks[1:4], strict=False))
        return gaps[len(gaps) // 2]

    def _mark(self, step: int, steps: int, seconds: float) -> None:
        if steps == 4:
            self.marks.append(time.perf_counter())

    @cached_property
    def _program(self) -> Any:  # noqa: ANN401, its package has no types
        StableDiffusion = import_module(SDCPP).StableDiffusion

        return StableDiffusion(
            model_path=str(single_file(self.folder)),
            wtype="q8_0",
            n_threads=torch.get_num_threads(),
            verbose=False,
        )


def single_file(folder: Path) -> Path:
    """The model of a diffusers folder in one file in the cache, written unless it is there."""
    from ssd1b.base.files import cache_folder
    from ssd1b.formats.diffusers_folder import open_folder
    from ssd1b.formats.openvino_ir import fingerprint
    from ssd1b.formats.safetensors_io import write_file
    from ssd1b.formats.single_file import to_single_file

    path = cache_folder() / "bench" / f"{folder.name}-{fingerprint(folder)}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        file = to_single_file(open_folder(folder))
        half = path.with_suffix(".part")
        write_file(half, file.tensors, metadata=file.metadata)
        half.replace(path)
    return path


ENGINES: dict[str, Callable[[Path], Runner]] = {
    "diffusers": Diffusers,
    "diffusers-compile": DiffusersCompiled,
    "openvino-stock": StockOpenVINO,  # type: ignore[dict-item]
    "sd.cpp-q8_0": StableDiffusionCpp,  # type: ignore[dict-item]
}
ONLY_UNET = ("openvino-stock", "sd.cpp-q8_0")


def missing(engine: str) -> str:
    """Why a peer cannot run here, or ""."""
    package = {"openvino-stock": "openvino", "sd.cpp-q8_0": SDCPP}.get(engine)
    if package and find_spec(package) is None:
        return f"{engine} is left out: the package {package.replace('_', '-')}-python is not installed."
    return ""
