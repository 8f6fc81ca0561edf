"""`ssd1b mini`: look at the embedded world, and train its models anew.

Wires the mini room to folders and to the distillation trainer; knows none of their insides.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ssd1b.base.errors import MissingFileError

app = typer.Typer(no_args_is_help=True, add_completion=False)


class Part(StrEnum):
    """What can be trained, in the order in which one needs the other."""

    vae = "vae"
    tiny = "tiny"
    text = "text"
    reader = "reader"
    teacher = "teacher"


@app.callback()
def about() -> None:
    """The embedded miniature: emoji scenes, a tiny SDXL family, and the reader that judges pictures.

    Examples:
        ssd1b mini scenes --out scenes.png

        ssd1b mini train vae --out runs/mini

        ssd1b mini train teacher --out runs/mini
    """


@app.command()
def scenes(
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("scenes.png"),
    seed: Annotated[int, typer.Option(help="Which scenes.")] = 1,
) -> None:
    """Draw a sheet of training scenes with their captions, a row for each of the nine sizes.

    Examples:
        ssd1b mini scenes --out scenes.png
    """
    from ssd1b.cli.show import say
    from ssd1b.mini.sheet import scene_sheet

    scene_sheet(seed).save(out)
    say(f"Wrote {out}.")


@app.command()
def train(
    part: Annotated[Part, typer.Argument(help="What to train.")],
    out: Annotated[Path, typer.Option(help="Folder for all parts; run again to go on.")] = Path("runs/mini"),
    steps: Annotated[int | None, typer.Option(help="Steps, if not the recipe's.")] = None,
) -> None:
    """Train a part of the miniature: vae, text, reader (the judge), then teacher (the UNet, some CPU-hours).

    The vae and text encoders are written to OUT/parts, where the teacher finds them. tiny is a smaller
    decoder that learns from the vae, for --tiny-decoder. Interrupt at any time; the same command goes on.

    Examples:
        ssd1b mini train vae --out runs/mini

        ssd1b mini train tiny --out runs/mini

        ssd1b mini train text --out runs/mini

        ssd1b mini train teacher --out runs/mini
    """
    run = {
        Part.vae: _vae,
        Part.tiny: _tiny,
        Part.text: _text,
        Part.reader: _reader,
        Part.teacher: _teacher,
    }[part]
    run(out, steps)


def _vae(out: Path, steps: int | None) -> None:
    from ssd1b.mini.train import parts, vae

    trained = vae.train(out / "vae-run", *([steps] if steps else []))
    parts.begin(out / "parts")
    trained.save_pretrained(out / "parts" / "vae")


def _tiny(out: Path, steps: int | None) -> None:
    import torch

    from ssd1b.mini.train import tiny
    from ssd1b.models.encoders import load_vae

    _need(out, "vae")
    vae = load_vae(out / "parts", device=torch.device("cpu"), dtype=torch.float32)
    trained = tiny.train(out / "tiny-run", vae, *([steps] if steps else []))
    trained.save_pretrained(out / "mini-tiny")


def _text(out: Path, steps: int | None) -> None:
    from ssd1b.mini.train import parts, text

    parts.begin(out / "parts")
    pair = text.train(out / "text-run", out / "parts", *([steps] if steps else []))
    pair.first.save_pretrained(out / "parts" / "text_encoder")
    pair.second.save_pretrained(out / "parts" / "text_encoder_2")


def _reader(out: Path, steps: int | None) -> None:
    from ssd1b.cli.show import print_json
    from ssd1b.mini.train import reader

    trained = reader.train(out / "reader-run", *([steps] if steps else []))
    trained.save(out / "reader")
    print_json(trained.accuracy)


def _teacher(out: Path, steps: int | None) -> None:
    import os
    import subprocess
    import sys

    parts = out / "parts"
    _need(out, "vae")
    _need(out, "text_encoder")
    ranks = str(min(2, os.cpu_count() or 1))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
    command += [
        "-m",
        "ssd1b",
        "distill",
        "mini-sdxl",
        "--out",
        str(out / "mini-sdxl"),
        "--set",
        f"parts={parts}",
    ]
    command += ["--set", f"stages.0.steps={steps}"] if steps else []
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def _need(out: Path, needed: str) -> None:
    """Raise MissingFileError, with the command that makes it, where OUT/parts lacks a part."""
    if not (out / "parts" / needed).is_dir():
        verb = "vae" if needed == "vae" else "text"
        raise MissingFileError(
            f"{out / 'parts'} has no {needed}. Run `ssd1b mini train {verb} --out {out}` first."
        )
