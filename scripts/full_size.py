"""Carve SSD-1B and Vega from an SDXL of true size with random weights, distil, measure (`make full-size`).

Needs 30 GB of disk, 20 GB of memory and no network. What is finished is kept, so the same command goes on
where it was stopped; the figures are printed and written to FOLDER/figures.json. The folder itself is left
for a look and can be removed.

    python scripts/full_size.py [--folder runs/full-size] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
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

from ssd1b.base.files import write_atomic
from ssd1b.base.units import human_bytes, human_seconds
from ssd1b.cli import show
from ssd1b.formats.random_model import write_random
from ssd1b.plan import catalog
from ssd1b.plan.count import parameters

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
    step = training_step(given.folder)
    record = {"command": "make full-size", **surroundings(), "plans": figures, "training_step": step}
    write_atomic(given.folder / "figures.json", json.dumps(record, indent=2) + "\n")
    print_figures(figures)
    show.say(f"Figures: {given.folder / 'figures.json'}")


def make_teacher(teacher: Path) -> None:
    """Write SDXL's folder in float16."""
    with show.counting_bytes("random SDXL") as reached:
        write_random(catalog.find("sdxl"), teacher, reached)


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


def training_step(folder: Path) -> dict[str, object]:
    """Two steps of distilling SDXL into SSD-1B in a process of their own; then remember."""
    memo = folder / "figures-step.json"
    if memo.is_file():
        return dict(json.loads(memo.read_text()))
    command = [sys.executable, str(Path(__file__).with_name("full_step.py")), "--folder", str(folder)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    *table, figures = said.splitlines()
    show.say("\n".join(table))
    write_atomic(memo, figures + "\n")
    return dict(json.loads(figures))


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
