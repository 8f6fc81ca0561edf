"""A request as A1111 writes it: the text that other programs read out of a picture.

Flattened so that no prompt can pass itself off as settings, to the readers that split lines and to those
that search. What it cannot keep is in the JSON beside it. Does not know files.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import ssd1b
from ssd1b.generate.request import Request
from ssd1b.generate.schedulers import kind_of

# What readers look for: the first anywhere, the others at the start of a line.
_NEGATIVE = re.compile(r"(negative\s+prompt\s*):", re.IGNORECASE)
_FIELD = re.compile(r"^(\s*(?:steps|sampler|template|hashes)\s*):", re.IGNORECASE)
_WIDE = str.maketrans({",": "，", ":": "：", '"': "”", "\\": "＼"})
_BRACKETS = str.maketrans({"<": "＜", ">": "＞"})
_HIRES_UPSCALERS = {"latent": "Latent", "lanczos": "Lanczos"}


def parameters(request: Request) -> str:
    """Write the prompt, "Negative prompt: ...", and one line of "Name: value" pairs.

    Always one line each: line breaks in a prompt become blanks, and a colon that would make some of the
    prompt look like a field becomes a wide one.
    """
    values = {
        "Steps": request.steps,
        "Sampler": kind_of(request.scheduler).a1111_name,
        "CFG scale": f"{request.guidance:g}",
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        **_modes(request),
        "Guidance until": f"{request.guidance_until:g}" if request.guidance_until < 1 else "",
        "DeepCache": request.reuse if request.reuse > 1 else "",
        "VAE": _plain(request.decoder),
        "Model": _plain(Path(request.model).name),
        "Emphasis": _emphasis(request),
        "Lora hashes": _lora_hashes(request),
        "Version": f"ssd1b {ssd1b.__version__}",
    }
    pairs = ", ".join(f"{name}: {value}" for name, value in values.items() if value != "")
    negative = _one_line(request.negative or "")
    return "\n".join(
        [
            _one_line(request.prompt) + _lora_words(request),
            *([f"Negative prompt: {negative}"] if negative else []),
            pairs,
        ]
    )


def _emphasis(request: Request) -> str:
    """How brackets are read, by A1111's name for it, where there are any."""
    if not re.search(r"[(\[]", request.prompt + (request.negative or "")):
        return ""
    return "None" if request.syntax == "plain" else "No norm"


def _lora_words(request: Request) -> str:
    """What makes A1111 wear the same adapters: it takes them from the prompt."""
    return "".join(f" <lora:{_file(each.name)}:{each.weight:g}>" for each in request.adapters)


def _lora_hashes(request: Request) -> str:
    """By name, the first 12 digits of A1111's hash, between quotes as A1111 quotes what has a colon in it."""
    pairs = ", ".join(f"{_file(each.name)}: {each.data_digest[:12]}" for each in request.adapters)
    return f'"{pairs}"' if pairs else ""


def _file(name: str) -> str:
    """A file's name with nothing in it that ends an adapter's place in the prompt."""
    return _plain(name).translate(_BRACKETS)


def _modes(request: Request) -> dict[str, object]:
    """What is said only of pictures that were painted over, made in two passes or enlarged."""
    values: dict[str, object] = {}
    if request.image:
        values |= {"Denoising strength": f"{request.strength:g}", "Init image hash": request.image[:16]}
    if request.mask:
        values |= {"Mask hash": request.mask[:16]}
    if request.hires > 1:
        values |= {
            "Hires upscale": f"{request.hires:g}",
            "Hires upscaler": _HIRES_UPSCALERS[request.hires_upscaler],
            "Hires strength" if request.image else "Denoising strength": f"{request.hires_strength:g}",
        }
    if request.upscale > 1:
        values |= {"Postprocess upscale by": request.upscale, "Postprocess upscaler": "Lanczos"}
    return values


def _one_line(text: str) -> str:
    """Without line breaks and control characters, and nothing in it that looks like a field."""
    printable = "".join(
        " " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter for letter in text
    )
    return _FIELD.sub(r"\1：", _NEGATIVE.sub(r"\1：", printable.strip()))


def _plain(name: str) -> str:
    """A name that ends where it ends, to every reader."""
    return _one_line(name).translate(_WIDE)
