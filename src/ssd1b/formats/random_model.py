"""A whole pipeline folder of a plan's true size with random weights, written in seconds.

For measuring and testing without gigabytes from the network: speed and memory do not depend on what weights
say. Every tensor is cut from a few blocks of noise, loud enough to keep signals level, so that nothing runs
into infinity. The files and names are those of SDXL. Not for making pictures.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ssd1b.base.errors import DiskFullError
from ssd1b.base.files import finished_folder
from ssd1b.base.units import human_bytes
from ssd1b.formats.pipeline import NewUNet, Part, Pipeline, as_json, write_pipeline
from ssd1b.formats.safetensors_io import TensorFile, written_bytes
from ssd1b.formats.sdxl_configs import MODEL_INDEX, scheduler_config
from ssd1b.formats.views import Span, View
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.tensors import tensors

Size = tuple[int, ...]
BLOCK_BYTES = 16 << 20
SMALLEST_STD = 12  # noise blocks of standard deviation 2**-0 … 2**-12, then one for biases and one for norms
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "layers_per_block": 2,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT = {
    "text_encoder": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                     "num_attention_heads": 12, "projection_dim": 768, "hidden_act": "quick_gelu"},
    "text_encoder_2": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
                       "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu"},
}  # fmt: skip


def write_random(
    plan: LayerPlan, out: Path, on_bytes: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write a diffusers folder in float16; it appears under its name when it is whole.

    Args:
        plan: a plan of SDXL's widths.
        out: a new folder.
        on_bytes: hears how many bytes of how many are written.

    Raises:
        OutputExistsError, DiskFullError: nothing was written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as place, finished_folder(out) as folder:
        noise = Path(place) / "noise.bin"
        write_noise(noise)
        pipeline = _pipeline(plan, noise)
        total = written_bytes(pipeline.unet.tensors) + pipeline.carried_bytes()
        _refuse_small_disk(out, total)
        done = 0

        def advance(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            on_bytes(done, total)

        new = NewUNet(pipeline.unet.tensors, {"format": "pt"}, as_json(plan.unet_config()))
        write_pipeline(pipeline, folder, new, on_bytes=advance)
        write_tokenizers(folder)


def configs() -> dict[str, dict[str, object]]:
    """The config of SDXL's autoencoder and of both text encoders."""
    return {part: json.loads(config_text(part, each)) for part, each in {"vae": VAE, **TEXT}.items()}


def _pipeline(plan: LayerPlan, noise: Path) -> Pipeline:
    """Every part of the folder, all of it cut from the noise."""
    sizes = {"vae": vae_sizes(), **{name: text_sizes(name) for name in TEXT}}
    configs = {"vae": VAE, **TEXT}
    parts = [
        Part(
            name, {"config.json": config_text(name, configs[name])}, weights(size, noise), weights_name(name)
        )
        for name, size in sizes.items()
    ]
    parts.append(Part("scheduler", {"scheduler_config.json": as_json(scheduler_config(()))}))
    unet = weights(tensors(plan.shape), noise)
    return Pipeline(noise, "made", MODEL_INDEX, unet, plan.unet_config(), tuple(parts))


def _refuse_small_disk(out: Path, total: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < total:
        raise DiskFullError(
            f"{human_bytes(total)} are needed for a random model at {out}, and {human_bytes(free)} are free"
            " there. Make room, or set SSD1B_CACHE to a larger disk."
        )


def write_noise(path: Path) -> None:
    """Blocks of float16 normal numbers, each half as loud as the one before; then biases, then norms.

    Biases are near 0 and norms near 1 but not equal to them: an engine that looks at the weights would leave
    such sums and products out, which it cannot do for a trained model.
    """
    import numpy as np

    count = BLOCK_BYTES // 2
    normal = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
    with path.open("wb") as file:
        for power in range(SMALLEST_STD + 1):
            file.write((normal * 2.0**-power).astype("<f2").tobytes())
        file.write((normal * 2.0**-6).astype("<f2").tobytes())
        file.write((1 + normal * 2.0**-4).astype("<f2").tobytes())


def weights(sizes: Mapping[str, Size], noise: Path) -> TensorFile:
    """Tensors cut out of the noise: matrices as loud as keeps signals level, norms near 1, biases near 0."""
    views = {}
    for number, (name, size) in enumerate(sorted(sizes.items())):
        block = noise_block(name, size)
        views[name] = View("F16", size, tuple(pieces(noise, block, 2 * math.prod(size), start=number)))
    return TensorFile((noise,), views, {"format": "pt"})


def noise_block(name: str, size: Size) -> int:
    """Which block of the noise file a tensor is cut from."""
    if len(size) < 2:
        return SMALLEST_STD + (2 if name.endswith("weight") else 1)
    fan_in = math.prod(size[1:])
    loudness = 0.02 if "embedding.weight" in name else 1 / math.sqrt(fan_in)
    return min(SMALLEST_STD, round(-math.log2(loudness)))


def pieces(noise: Path, block: int, n_bytes: int, *, start: int) -> list[Span]:
    """Ranges of one block that add up to `n_bytes`; different tensors begin at different places."""
    offset = (start * 7919 * 2) % BLOCK_BYTES
    spans = []
    while n_bytes:
        length = min(n_bytes, BLOCK_BYTES - offset)
        spans.append(Span(noise, block * BLOCK_BYTES + offset, length))
        n_bytes, offset = n_bytes - length, 0
    return spans


def vae_sizes() -> dict[str, Size]:
    """The tensors of SDXL's VAE, from the meta device."""
    import torch
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        model = AutoencoderKL.from_config({"_class_name": "AutoencoderKL", **VAE})
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def text_sizes(name: str) -> dict[str, Size]:
    """The tensors of one of SDXL's text encoders, from the meta device.

    Under the names of published files: transformers 5 has dropped the prefix "text_model." from one of them,
    and stable-diffusion.cpp takes no file without it.
    """
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModel if name == "text_encoder" else CLIPTextModelWithProjection
    with torch.device("meta"):
        model = kind(CLIPTextConfig(**TEXT[name]))
    sizes = {
        key: tuple(value.shape) for key, value in model.state_dict().items() if "position_ids" not in key
    }
    return {
        key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}": size
        for key, size in sizes.items()
    }


def weights_name(part: str) -> str:
    """The file that diffusers (the VAE) or transformers (the text encoders) looks for."""
    return "diffusion_pytorch_model.safetensors" if part == "vae" else "model.safetensors"


def config_text(part: str, config: Mapping[str, object]) -> str:
    """The config.json of the VAE or a text encoder; the end-of-text id 2 is what SDXL publishes."""
    kind = {"vae": {"_class_name": "AutoencoderKL"}}.get(
        part, {"model_type": "clip_text_model", "vocab_size": 49408, "eos_token_id": 2, "bos_token_id": 0}
    )
    return as_json({**kind, **config})


def write_tokenizers(folder: Path) -> None:
    """CLIP's tokenizer without merges, one token a character: it only has to load."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        CLIPTokenizer(vocab=vocabulary, merges=[], pad_token=pad, model_max_length=77).save_pretrained(
            folder / name
        )
