"""Carve SSD-1B and Vega from an SDXL of true size with random weights, and measure it (`make full-size`).

Needs 20 GB of disk and no network. What is finished is kept, so the same command goes on where it was
stopped; the figures are printed and written to FOLDER/figures.json. The folder itself is left for a look and
can be removed.

    python scripts/full_size.py [--folder runs/full-size] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from ssd1b.base.files import finished_folder, write_atomic
from ssd1b.base.units import human_bytes, human_seconds
from ssd1b.cli import show
from ssd1b.formats.pipeline import NewUNet, Part, Pipeline, as_json, write_pipeline
from ssd1b.formats.safetensors_io import TensorFile, written_bytes
from ssd1b.formats.sdxl_configs import MODEL_INDEX, scheduler_config
from ssd1b.formats.views import Span, View
from ssd1b.plan import catalog
from ssd1b.plan.count import parameters
from ssd1b.plan.tensors import tensors

Size = tuple[int, ...]
_SHOWN = (
    "bytes",
    "carve_s",
    "copy_s",
    "carve_over_copy",
    "carve_over_copy_cpu",
    "carve_peak_bytes",
    "step_s",
)
PLANS = ("ssd-1b", "vega")
BLOCK_BYTES = 16 << 20
SMALLEST_STD = 12  # noise blocks of standard deviation 2**-0 … 2**-12, then one of zeros and one of ones
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
# Runs `ssd1b` and leaves the kernel's own peak of resident memory: `getrusage` would count the parent's, too.
MEASURED = """
import sys
from pathlib import Path
from ssd1b.cli.main import main
status = main(sys.argv[2:])
Path(sys.argv[1]).write_text(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
sys.exit(status)
"""
PLAIN_COPY = """
import os, shutil, sys
from pathlib import Path
shutil.copytree(sys.argv[1], sys.argv[2])
for path in Path(sys.argv[2]).rglob("*"):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
"""


def main() -> None:
    """Make the teacher, carve, load, take a step; print the figures and write them down."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/full-size"))
    parser.add_argument("--repeats", type=int, default=3, help="measure so often, keep the fastest")
    parser.add_argument("--step", nargs=1, metavar="STUDENT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(one_step(Path(given.step[0]))))
        return
    teacher = given.folder / "sdxl"
    if not teacher.is_dir():
        make_teacher(teacher)
    figures = {plan: measured(given.folder, plan, given.repeats) for plan in PLANS}
    record = {"command": "make full-size", **surroundings(), "plans": figures}
    write_atomic(given.folder / "figures.json", json.dumps(record, indent=2) + "\n")
    print_figures(figures)
    show.say(f"Figures: {given.folder / 'figures.json'}")


def make_teacher(teacher: Path) -> None:
    """Write SDXL's folder in float16, tensor by tensor out of a few blocks of noise."""
    teacher.parent.mkdir(parents=True, exist_ok=True)
    noise = teacher.parent / "noise.bin"
    write_noise(noise)
    sizes = {"vae": vae_sizes(), **{name: text_sizes(name) for name in TEXT}}
    unet = weights(tensors(catalog.SDXL), noise)
    configs = {"vae": VAE, **TEXT}
    parts = [
        Part(
            name, {"config.json": config_text(name, configs[name])}, weights(size, noise), weights_name(name)
        )
        for name, size in sizes.items()
    ]
    parts.append(Part("scheduler", {"scheduler_config.json": as_json(scheduler_config(()))}))
    pipeline = Pipeline(noise, "made", MODEL_INDEX, unet, catalog.SDXL.config(), tuple(parts))
    total = written_bytes(unet.tensors) + pipeline.carried_bytes()
    done = 0
    with show.counting_bytes("random SDXL") as reached, finished_folder(teacher) as folder:

        def advance(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            reached(done, total)

        new = NewUNet(unet.tensors, {"format": "pt"}, as_json(catalog.SDXL.config()))
        write_pipeline(pipeline, folder, new, on_bytes=advance)
        write_tokenizers(folder)
    noise.unlink()


def write_noise(path: Path) -> None:
    """Blocks of float16 normal numbers, each half as loud as the one before; then zeros, then ones."""
    import numpy as np

    count = BLOCK_BYTES // 2
    normal = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
    with path.open("wb") as file:
        for power in range(SMALLEST_STD + 1):
            file.write((normal * 2.0**-power).astype("<f2").tobytes())
        file.write(np.zeros(count, "<f2").tobytes())
        file.write(np.ones(count, "<f2").tobytes())


def weights(sizes: Mapping[str, Size], noise: Path) -> TensorFile:
    """Tensors cut out of the noise: matrices as loud as keeps signals level, norms 1, biases 0."""
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
    """The tensors of one of SDXL's text encoders, from the meta device."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModel if name == "text_encoder" else CLIPTextModelWithProjection
    with torch.device("meta"):
        model = kind(CLIPTextConfig(**TEXT[name]))
    return {key: tuple(value.shape) for key, value in model.state_dict().items() if "position_ids" not in key}


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


def measured(folder: Path, plan: str, repeats: int) -> dict[str, object]:
    """Carve one student (several times, each beside a plain copy), load it, take a step; then remember."""
    memo = folder / f"figures-{plan}.json"
    if memo.is_file():
        return dict(json.loads(memo.read_text()))
    student, rounds = folder / plan, []
    for _ in range(repeats):
        shutil.rmtree(student, ignore_errors=True)
        rounds.append({**carved(folder / "sdxl", plan, student), **copied(student, folder / "copy")})
    best = {key: min(one[key] for one in rounds) for key in rounds[0]}
    command = [sys.executable, __file__, "--step", str(student)]
    step = subprocess.run(command, check=True, capture_output=True, text=True)
    figures = {
        "unet_parameters": parameters(catalog.find(plan).shape),
        "bytes": sum(path.stat().st_size for path in student.rglob("*") if path.is_file()),
        **{key: best[key] for key in ("carve_s", "copy_s", "carve_cpu_s", "copy_cpu_s")},
        "carve_over_copy": best["carve_s"] / best["copy_s"],
        "carve_over_copy_cpu": best["carve_cpu_s"] / best["copy_cpu_s"],
        "carve_peak_bytes": max(one["peak_bytes"] for one in rounds),
        "rounds": rounds,
        **json.loads(step.stdout.splitlines()[-1]),
    }
    write_atomic(memo, json.dumps(figures, indent=2) + "\n")
    return figures


def carved(teacher: Path, plan: str, student: Path) -> dict[str, float]:
    """Seconds and peak of resident memory of `ssd1b carve`, everything on the disk."""
    peak = student.with_name("peak.txt")
    words = ["carve", "--teacher", str(teacher), "--plan", plan, "--out", str(student)]
    wall_s, cpu_s = timed([sys.executable, "-c", MEASURED, str(peak), *words])
    peak_bytes = 1024 * int(peak.read_text())
    peak.unlink()
    return {"carve_s": wall_s, "carve_cpu_s": cpu_s, "peak_bytes": peak_bytes}


def copied(student: Path, target: Path) -> dict[str, float]:
    """Seconds that copying the same bytes takes, everything on the disk; the copy is removed again."""
    wall_s, cpu_s = timed([sys.executable, "-c", PLAIN_COPY, str(student), str(target)])
    shutil.rmtree(target)
    return {"copy_s": wall_s, "copy_cpu_s": cpu_s}


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time, that a command takes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - start, sum(after[:2]) - sum(before[:2])


def one_step(student: Path) -> dict[str, object]:
    """Load the student in stock diffusers and take one denoising step at 16 x 16 latents in bfloat16."""
    import torch
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    with torch.device("meta"):
        expected = UNet2DConditionModel.from_config(
            UNet2DConditionModel.load_config(student / "unet")
        ).state_dict()
    start = time.monotonic()
    unet, info = UNet2DConditionModel.from_pretrained(
        student / "unet", output_loading_info=True, dtype=torch.bfloat16, use_safetensors=True
    )
    faults = {kind: len(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    pipeline = StableDiffusionXLPipeline.from_pretrained(student, unet=unet, dtype=torch.bfloat16)
    load_s = time.monotonic() - start
    pipeline.set_progress_bar_config(disable=True)
    start = time.monotonic()
    made = pipeline("a fox", height=128, width=128, num_inference_steps=1, output_type="latent").images
    return {
        **faults,
        "tensors": len(expected),
        "load_s": load_s,
        "step_s": time.monotonic() - start,
        "finite": bool(torch.isfinite(made).all()),
    }


def surroundings() -> dict[str, str]:
    """Commit, date and machine: without them a figure is worth nothing."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}",
    }


def print_figures(figures: Mapping[str, Mapping[str, object]]) -> None:
    """The table, on standard output before the JSON."""
    columns = ("plan", ">on disk", ">carve", ">copy", ">ratio", ">of CPU", ">peak", ">amiss", ">step")
    rows = []
    for plan, each in figures.items():
        amiss = sum(int(str(each[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        number = {key: float(str(each[key])) for key in _SHOWN}
        row = (
            plan,
            human_bytes(number["bytes"]),
            human_seconds(number["carve_s"]),
            human_seconds(number["copy_s"]),
            f"{number['carve_over_copy']:.2f}",
            f"{number['carve_over_copy_cpu']:.2f}",
            human_bytes(number["carve_peak_bytes"]),
            str(amiss),
            human_seconds(number["step_s"]) if each["finite"] else "not finite",
        )
        rows.append(row)
    show.table("Full size", columns, rows)


if __name__ == "__main__":
    main()
