"""Put freshly trained mini models into the package: half precision, nothing twice.

    python tools/pack_mini.py parts runs/mini/parts
    python tools/pack_mini.py tiny runs/mini/mini-tiny
    python tools/pack_mini.py reader runs/mini/reader
    python tools/pack_mini.py model mini-sdxl runs/mini/mini-sdxl/student
    python tools/pack_mini.py model mini-sdxl-expert runs/mini/mini-sdxl-expert/student --base mini-sdxl
    python tools/pack_mini.py ablation mini-ssd runs/ablation "256 scenes=runs/ablation-few" --note "..."

With --base only the tensors that differ from the base are kept. JSON files beside `unet` (ablation) and the
model card come along, and the loss curves of the run, thinned. An ablation of several runs is one file: the
arms of the first, then those of the others, marked with their label; arms without training are taken once.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ssd1b.mini.embedded import DECODERS, PARTS_FOLDERS

WEIGHTS = Path(__file__).parents[1] / "src/ssd1b/mini/weights"
UNET = "diffusion_pytorch_model.safetensors"


def main() -> None:
    """Read the command line and pack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("parts", "tiny", "reader", "model", "ablation"))
    parser.add_argument("words", nargs="+", help="[NAME] FOLDER [LABEL=FOLDER ...]")
    parser.add_argument("--base")
    parser.add_argument("--note", default="")
    told = parser.parse_args()
    if told.what == "parts":
        pack_parts(Path(told.words[0]))
    elif told.what == "tiny":
        pack_tiny(Path(told.words[0]))
    elif told.what == "reader":
        shutil.copytree(told.words[0], WEIGHTS / "reader", dirs_exist_ok=True)
    elif told.what == "ablation":
        pack_ablation(told.words[0], told.words[1:], told.note)
    else:
        pack_model(told.words[0], Path(told.words[1]), told.base)
    total = sum(path.stat().st_size for path in WEIGHTS.parent.rglob("*") if path.is_file())
    print(f"everything mini: {total / 1e6:.1f} MB")


def pack_parts(folder: Path) -> None:
    """Copy the shared parts, their weights halved."""
    for name in PARTS_FOLDERS:
        shutil.copytree(folder / name, WEIGHTS / "parts" / name, dirs_exist_ok=True)
    shutil.copy(folder / "model_index.json", WEIGHTS / "parts")
    for path in (WEIGHTS / "parts").rglob("*.safetensors"):
        write(halved(load_file(path)), path)


def pack_tiny(folder: Path) -> None:
    """Copy the tiny decoder, its weights halved."""
    out = WEIGHTS / DECODERS[0]
    out.mkdir(exist_ok=True)
    shutil.copy(folder / "config.json", out)
    write(halved(load_file(folder / UNET)), out / UNET)


def pack_model(name: str, folder: Path, base: str | None) -> None:
    """Copy one UNet, or what differs from its base."""
    out = WEIGHTS / name
    shutil.rmtree(out, ignore_errors=True)
    (out / "unet").mkdir(parents=True)
    tensors = halved(load_file(folder / "unet" / UNET))
    if base:
        old = load_file(WEIGHTS / base / "unet" / UNET)
        tensors = {key: value for key, value in tensors.items() if not torch.equal(value, old[key])}
        (out / "mini.json").write_text(json.dumps({"base": base}) + "\n")
    else:
        shutil.copy(folder / "unet" / "config.json", out / "unet")
    write(tensors, out / "unet" / ("delta.safetensors" if base else UNET))
    if (log := folder.parent / "log.jsonl").is_file():
        (out / "training.json").write_text(json.dumps({"lines": thinned(log)}) + "\n")
    for path in (*folder.glob("*.json"), *folder.glob("*.md"), *folder.glob("*.svg")):
        if path.name not in ("model_index.json", "manifest.json", "mini.json", "training.json"):
            shutil.copy(path, out)


def pack_ablation(name: str, folders: list[str], note: str) -> None:
    """Copy what scripts/ablate_mini.py found, in LABEL=FOLDER after the first, as one file."""
    arms: list[dict[str, object]] = []
    commands = []
    for word in folders:
        label, _, folder = word.rpartition("=")
        found = json.loads((Path(folder) / "ablation.json").read_text())
        commands.append(found["command"])
        for arm in found["arms"]:
            seeds = [{key: seed[key] for key in ("seed", "overall", "scores")} for seed in arm["seeds"]]
            if label and not arm["samples"]:
                continue
            arms.append({**arm, "name": f"{arm['name']}, {label}" if label else arm["name"], "seeds": seeds})
        if word == folders[0]:
            teacher = {key: found["teacher"][key] for key in ("overall", "scores")}
    file = {"arms": arms, "teacher": teacher, "command": "; ".join(commands), "note": note}
    (WEIGHTS / name / "ablation.json").write_text(json.dumps(file, indent=1) + "\n")


def thinned(log: Path, most: int = 120) -> list[dict[str, object]]:
    """At most so many of a run's log lines with losses, evenly, without the single feature terms."""
    rows = [row for line in log.read_text().splitlines() if "losses" in (row := json.loads(line))]
    kept = rows[:: max(1, -(-len(rows) // most))]
    for row in kept:
        row["losses"] = {k: v for k, v in row["losses"].items() if k in ("loss", "task", "output", "feature")}
    return kept


def halved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Floating point tensors in float16, others as they are."""
    return {k: v.half().contiguous() if v.is_floating_point() else v for k, v in tensors.items()}


def write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file as diffusers and transformers expect it."""
    save_file(tensors, path, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
