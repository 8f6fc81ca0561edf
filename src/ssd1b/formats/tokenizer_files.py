"""The two tokenizers that a single-file checkpoint lacks, taken from a folder or from the hub's local cache.

Both are CLIP's tokenizer; the second pads with "!" (id 0), as SDXL publishes it. Files are only copied;
nothing is fetched and transformers is not needed.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from ssd1b.base.errors import LayoutError, MissingFileError
from ssd1b.formats.diffusers_folder import read_json
from ssd1b.formats.pipeline import Part, Pipeline, as_json
from ssd1b.formats.views import View

BOTH = ("tokenizer", "tokenizer_2")
_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_EMBEDDING = "text_model.embeddings.token_embedding.weight"
_POSITIONS = "text_model.embeddings.position_embedding.weight"
CACHED = (
    "stabilityai/stable-diffusion-xl-base-1.0",
    "segmind/SSD-1B",
    "segmind/Segmind-Vega",
    "openai/clip-vit-large-patch14",
)


def with_tokenizers(pipeline: Pipeline, folder: Path | None) -> Pipeline:
    """The pipeline with tokenizers; one that has them is given back as it is.

    Args:
        pipeline: what a single file or a folder held.
        folder: holds `tokenizer` and `tokenizer_2`, or one CLIP tokenizer; None searches the hub's cache.

    Raises:
        MissingFileError: none was found; the message says how to give one.
        LayoutError: it has more words than the text encoders know.
    """
    if any(part.name in BOTH for part in pipeline.parts):
        return pipeline
    found = folder or _cached()
    if found is None:
        raise MissingFileError(
            f"{pipeline.path} is a single file, and single files carry no tokenizers. Give them with"
            " --tokenizers DIR, a folder with `tokenizer` and `tokenizer_2` (any SDXL diffusers folder has"
            " them) or with one CLIP tokenizer (vocab.json, merges.txt). The hub cache was searched too, for"
            f" {', '.join(CACHED)}."
        )
    sizes = {name: view.shape for name, view in _text_encoder(pipeline).items()}
    length = sizes[_POSITIONS][0]
    if all((found / name).is_dir() for name in BOTH):
        parts = [Part(name, _files(found / name)) for name in BOTH]
    else:
        parts = [_clip_tokenizer(found, name, length) for name in BOTH]
    words = _vocabulary(parts[0], found)
    if words > sizes[_EMBEDDING][0]:
        raise LayoutError(
            f"The tokenizer in {found} has {words} words and the text encoders of {pipeline.path} know"
            f" {sizes[_EMBEDDING][0]}. Give the tokenizers that belong to this model with --tokenizers."
        )
    return replace(pipeline, parts=(*pipeline.parts, *parts))


def _text_encoder(pipeline: Pipeline) -> dict[str, View]:
    part = next(part for part in pipeline.parts if part.name == "text_encoder")
    assert part.weights is not None, "a text encoder has weights"
    return dict(part.weights.tensors)


def _cached() -> Path | None:
    """The first snapshot in huggingface_hub's cache that has CLIP's tokenizer."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    for repository in CACHED:
        for snapshot in sorted(cache.glob(f"models--{repository.replace('/', '--')}/snapshots/*")):
            if all(_files_or_none(snapshot / name) for name in BOTH) or _files_or_none(snapshot):
                return snapshot
    return None


def _files_or_none(folder: Path) -> dict[str, Path | str] | None:
    files: dict[str, Path | str] = {name: folder / name for name in _FILES if (folder / name).is_file()}
    return files if {"vocab.json", "merges.txt"} <= set(files) or "tokenizer.json" in files else None


def _files(folder: Path) -> dict[str, Path | str]:
    files = _files_or_none(folder)
    if files is None:
        raise MissingFileError(
            f"{folder} holds no CLIP tokenizer (vocab.json with merges.txt, or tokenizer.json). Give another"
            " folder with --tokenizers."
        )
    return files


def _clip_tokenizer(folder: Path, name: str, length: int) -> Part:
    """One CLIP tokenizer as SDXL's first or second."""
    files = _files(folder)
    pad = "<|endoftext|>" if name == "tokenizer" else "!"
    config = read_json(folder / "tokenizer_config.json") if "tokenizer_config.json" in files else {}
    config |= {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "pad_token": pad}
    for token, text in (("bos_token", "<|startoftext|>"), ("eos_token", "<|endoftext|>")):
        config[token] = text
    config.setdefault("unk_token", "<|endoftext|>")
    config.pop("added_tokens_decoder", None)
    files["tokenizer_config.json"] = as_json(config)
    if "special_tokens_map.json" in files:
        special = read_json(folder / "special_tokens_map.json")
        files["special_tokens_map.json"] = as_json({**special, "pad_token": pad})
    if "vocab.json" in files and name == "tokenizer_2":
        files.pop("tokenizer.json", None)  # it would bring the first one's padding along
    return Part(name, files)


def _vocabulary(part: Part, folder: Path) -> int:
    """How many words a tokenizer has."""
    source = part.files.get("vocab.json") or part.files["tokenizer.json"]
    assert isinstance(source, Path), "vocabularies are copied, never made"
    try:
        record = json.loads(source.read_text(encoding="utf-8"))
        return len(record if source.name == "vocab.json" else record["model"]["vocab"])
    except (ValueError, KeyError, TypeError) as error:
        raise MissingFileError(
            f"The tokenizer in {folder} cannot be read ({error!r}). Give another one."
        ) from error
