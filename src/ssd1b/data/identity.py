"""Who encoded a cache: hashes of the files that decide what an encoder answers.

Two models with the same VAE share a cache of latents, whatever they are called and wherever they lie. Knows
the files of a diffusers folder, not what is in them.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch

from ssd1b.base.files import sha256_file, sha256_text
from ssd1b.models.folder import part_folder, weight_variant

TEXT_PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


@lru_cache(maxsize=4)
def vae_identity(model: Path) -> str:
    """SHA-256 over the VAE's configuration and the weights that are read for float32."""
    return sha256_text(_network(model, "vae"))


@lru_cache(maxsize=4)
def text_identity(model: Path) -> str:
    """SHA-256 over both text encoders and both tokenizers."""
    networks = [_network(model, part) for part in TEXT_PARTS[:2]]
    words = [_tokenizer(part_folder(model, part)) for part in TEXT_PARTS[2:]]
    return sha256_text("\n".join(networks + words))


def key_of(*facts: object) -> str:
    """A short name for everything that decides a cache's numbers: 16 hex digits."""
    return sha256_text(json.dumps(facts, sort_keys=True))[:16]


def _network(model: Path, part: str) -> str:
    folder = part_folder(model, part)
    half = weight_variant(folder, torch.float32) == "fp16"
    weights = [path for path in sorted(folder.glob("*.safetensors")) if (".fp16" in path.name) == half]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    told = {name: value for name, value in sorted(config.items()) if not name.startswith("_")}
    return json.dumps([told, [sha256_file(path) for path in weights]])


def _tokenizer(folder: Path) -> str:
    """A tokenizer's files; caches that a library put beside them do not count."""
    return json.dumps([(path.name, sha256_file(path)) for path in sorted(folder.iterdir()) if path.is_file()])
