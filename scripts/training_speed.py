"""Distillation steps of this trainer beside the published script's loop, and beside the machine's limit.

    python scripts/training_speed.py [--side 384] [--rounds 2] [--out docs/bench/training.json]

SDXL's pipeline at half its widths, random weights, batch 1, float32, on the processor. Three loops take
turns, one step to warm up and one that counts:

- `ours`: `Trainer`, latents and captions cached.
- `original`: what segmind/SSD-1B's distill_sdxl.py (commit 3bf633b) does in a step: VAE and both text
  encoders, student, frozen teacher under no_grad in float32, 26 feature terms by hooks, AdamW as torch makes
  it by default.
- `tracked`: the same without those two lines: the teacher's pass is recorded and the backward pass goes
  through it as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from full_step import Clock
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ssd1b.base.files import write_atomic
from ssd1b.cli import show
from ssd1b.distill import student
from ssd1b.distill.journal import Journal
from ssd1b.distill.recipe import Stage
from ssd1b.distill.step import Objective
from ssd1b.distill.trainer import Surroundings, Trainer
from ssd1b.evaluate.speed.probe import peaks
from ssd1b.models.batch import Batch, Caption
from ssd1b.models.schedule import Schedule
from ssd1b.plan import catalog
from ssd1b.plan.count import flops, parameters

TEXT_SIZES = ((384, 1536, 12, 6), (640, 2560, 32, 10))  # hidden, inner, layers, heads: half of SDXL's widths
HALF = replace(
    catalog.SDXL,
    channels=(160, 320, 640),
    heads=(5, 5, 10),
    cross_attention_dim=sum(size[0] for size in TEXT_SIZES),
    addition_time_embed_dim=128,
    projection_class_embeddings_input_dim=TEXT_SIZES[1][0] + 6 * 128,
)
PLAN = catalog.find("ssd-1b").on(HALF)
VAE_SCALE_FACTOR = 0.13025
Step = Callable[[], None]


class Cached:
    """A batch source whose latents and captions are there, as a cache hands them out."""

    def __init__(self, side_px: int) -> None:
        """One square sample."""
        random, side = torch.Generator().manual_seed(0), side_px // 8
        self.batch = Batch(
            latent_BCHW=torch.randn(1, 4, side, side, generator=random),
            context_BTC=torch.randn(1, 77, HALF.cross_attention_dim, generator=random),
            pooled_BC=torch.randn(1, TEXT_SIZES[1][0], generator=random),
            time_ids_B6=torch.tensor([[side_px, side_px, 0, 0, side_px, side_px]]).float(),
            ids=("random",),
        )

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Always the same."""
        return self.batch

    def empty(self) -> Caption:
        """All zero."""
        return Caption(torch.zeros(77, HALF.cross_attention_dim), torch.zeros(TEXT_SIZES[1][0]))


def models() -> tuple[nn.Module, nn.Module]:
    """Random teacher and the student carved from it."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    teacher = UNet2DConditionModel.from_config(catalog.find("sdxl").on(HALF).unet_config()).eval()
    return teacher, student.carved(PLAN, teacher.state_dict()).train()


def ours(side_px: int, n_steps: int, place: Path) -> Iterator[dict[str, float]]:
    """Seconds by part of each of the trainer's steps. Saving is left out, as in the other loops."""
    teacher, unet = models()
    teacher.requires_grad_(False)
    stage = Stage.model_validate(
        {"name": "speed", "plan": "ssd-1b", "start": "teacher", "teacher": "sdxl", "steps": n_steps}
        | {"batch": 1, "clip": 0.0}
    )
    clock = Clock()
    objective = Objective(Schedule.sdxl(), stage.weighting, teacher, PLAN.tap_pairs())
    around = Surroundings(place, Journal(None, 0), watcher=clock)
    trainer = Trainer(unet, objective, Cached(side_px), stage, around)
    trainer.save = lambda position: None  # type: ignore[method-assign]
    clock.forward_of(teacher, "teacher_forward")
    clock.forward_of(unet, "student_forward")
    clock.updates_of(trainer.updater)  # type: ignore[arg-type]
    trainer.run(0, 0)
    yield from clock.steps


def original(side_px: int, n_steps: int, *, tracked: bool) -> Iterator[dict[str, float]]:
    """Seconds of each step of the published loop."""
    teacher, unet = models()
    teacher.requires_grad_(tracked)
    encode, batch = encoders(), Cached(side_px).batch
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5, weight_decay=1e-2)
    caught_student, caught_teacher = caught(unet), caught(teacher)
    alpha_bar_T = Schedule.sdxl().alpha_bar_T
    for number in range(n_steps):
        random = torch.Generator().manual_seed(number)
        pixels_BCHW = torch.rand(1, 3, side_px, side_px, generator=random) * 2 - 1
        tokens_BT = torch.randint(0, 49406, (1, 77), generator=random)
        start = time.perf_counter()
        latent_BCHW, context_BTC, pooled_BC = encode(pixels_BCHW, tokens_BT)
        noise_BCHW = torch.randn_like(latent_BCHW)
        timestep_B = torch.randint(0, 1000, (1,))
        share = alpha_bar_T[timestep_B].view(-1, 1, 1, 1)
        noisy_BCHW = share.sqrt() * latent_BCHW + (1 - share).sqrt() * noise_BCHW
        given = (noisy_BCHW, timestep_B, context_BTC)
        added = {"text_embeds": pooled_BC, "time_ids": batch.time_ids_B6}
        estimate_BCHW = unet(*given, added_cond_kwargs=added).sample
        with torch.set_grad_enabled(tracked):
            target_BCHW = teacher(*given, added_cond_kwargs=added).sample
        gaps = [
            mse_loss(caught_teacher[pair.teacher_site], caught_student[pair.student_site])
            for pair in PLAN.tap_pairs()
        ]
        loss = mse_loss(estimate_BCHW, noise_BCHW) + 0.5 * mse_loss(estimate_BCHW, target_BCHW)
        loss = loss + 0.5 * sum(gaps)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        teacher.zero_grad()
        yield {"step_s": time.perf_counter() - start}


def encoders() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """The half-width VAE and text encoders: pixels and tokens to latent, context and pooled text."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    blocks = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    vae = AutoencoderKL(3, 3, *blocks, (64, 128, 256, 256), layers_per_block=2, latent_channels=4)
    texts = []
    for width, inner, layers, heads in TEXT_SIZES:
        config = CLIPTextConfig(49408, width, inner, width, layers, heads, eos_token_id=2, bos_token_id=0)
        texts.append(CLIPTextModelWithProjection(config))
    for model in (vae, *texts):
        model.requires_grad_(False).eval()

    def encode(pixels_BCHW: Tensor, tokens_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        latent_BCHW = vae.encode(pixels_BCHW).latent_dist.sample() * VAE_SCALE_FACTOR
        said = [text(tokens_BT, output_hidden_states=True) for text in texts]
        return latent_BCHW, torch.cat([one.hidden_states[-2] for one in said], -1), said[-1].text_embeds

    return encode


def caught(unet: nn.Module) -> dict[str, Tensor]:
    """Hooks that stay, as the script has them: every feature of the last pass by site."""
    features: dict[str, Tensor] = {}
    sites = {site for pair in PLAN.tap_pairs() for site in (pair.student_site, pair.teacher_site)}
    for name, module in unet.named_modules():
        if name in sites:
            module.register_forward_hook(
                lambda module, inputs, output, name=name: features.update(
                    {name: output[0] if isinstance(output, tuple) else output}
                )
            )
    return features


def main() -> None:
    """Let the loops take turns; print and write what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=384, help="pixels")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/bench/training.json"))
    given = parser.parse_args()
    limit = peaks(torch.get_num_threads(), seconds=2.0)["fp32"]
    found: dict[str, list[dict[str, float]]] = {"ours": [], "original": [], "tracked": []}
    with tempfile.TemporaryDirectory() as place:
        for _ in range(given.rounds):
            found["ours"] += list(ours(given.side, 2, Path(place)))[1:]
            found["original"] += list(original(given.side, 2, tracked=False))[1:]
            found["tracked"] += list(original(given.side, 2, tracked=True))[1:]
    record = recorded(given.side, limit, found)
    write_atomic(given.out, json.dumps(record, indent=1) + "\n")
    rows = [(name, *(f"{step['step_s']:.2f} s" for step in steps)) for name, steps in found.items()]
    show.table("Seconds per step", ("loop", *(f">round {n + 1}" for n in range(given.rounds))), rows)
    print(json.dumps(record["ratios"]))


def recorded(side_px: int, limit: float, found: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """The figures, with what they were made by; ratios from the middle of the rounds."""
    middle = {name: median(step["step_s"] for step in steps) for name, steps in found.items()}
    work = flops(HALF, side_px, side_px) + 3 * flops(PLAN.shape, side_px, side_px)
    in_unets = median(
        step["teacher_forward_s"] + step["student_forward_s"] + step["backward_s"] for step in found["ours"]
    )
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": " ".join(["python", "scripts/training_speed.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "model": {"teacher_parameters": parameters(HALF), "student_parameters": parameters(PLAN.shape)},
        "side_px": side_px,
        "batch": 1,
        "precision": "fp32",
        "peak_gflops": limit,
        "unet_flops_per_step": work,
        "unet_gflops": work / in_unets / 1e9,
        "seconds": found,
        "ratios": {
            "steps_over_original": middle["original"] / middle["ours"],
            "steps_over_tracked": middle["tracked"] / middle["ours"],
            "unet_share_of_peak": work / in_unets / 1e9 / limit,
        },
    }


def processor() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line for line in lines if line.startswith("model name")]
    return f"{named[0].partition(':')[2].strip() if named else platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
