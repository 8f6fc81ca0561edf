"""Text embeddings of both encoders, kept on request: one row for each caption, however many pictures have it.

Rows are sorted by the caption's hash, so a row is found by its hash alone. Full size takes 310 KiB a caption,
more than twice a picture's latents: encoding while training is the default.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ssd1b.base.errors import DataError
from ssd1b.data import identity, shards
from ssd1b.data.cache import FOLDER, Encoder, one_thread
from ssd1b.data.ingest import WORK
from ssd1b.data.manifest import Manifest
from ssd1b.data.places import Place
from ssd1b.data.runners import Heard, Runner
from ssd1b.models.batch import Caption
from ssd1b.models.encoders import TextStack, load_text

SHARD, _GROUP = 256, 16
_VERSION = 1  # raise when the numbers of a shard change though the encoders do not
_PLAN = f"{WORK}/captions.json"


@dataclass(frozen=True, slots=True)
class Writing:
    """The work of the workers: the captions of a shard in, their embeddings out."""

    out: Place
    encoder: Encoder

    @property
    def home(self) -> Place:
        """The folder of these embeddings."""
        return texts_place(self.out, self.encoder)

    def shards(self) -> Sequence[str]:
        """All, in order of the captions' hashes."""
        return list(_plan(self.home))

    def size(self, shard: str) -> int:
        """Captions in a shard."""
        return len(_plan(self.home)[shard])

    def is_done(self, shard: str) -> bool:
        """Whether the file is there."""
        return self.home.exists(f"{shard}.safetensors")

    def leases(self) -> Place:
        """In the work folder."""
        return Place(f"{self.home.root}/{WORK}/leases")

    def make(self, shard: str) -> None:
        """Encode the captions of a shard, in fixed groups.

        Raises:
            DataError: an embedding is not finite in the number format.
        """
        stack = _stack(self.encoder.model, self.encoder.device)
        pairs = _plan(self.home)[shard]
        contexts, pooled, dtype = [], [], shards.DTYPES[self.encoder.dtype]
        with one_thread(self.encoder.device):
            for first in range(0, len(pairs), _GROUP):
                text = stack.encode([caption for _, caption in pairs[first : first + _GROUP]])
                contexts.append(text.context_BTC.cpu().to(dtype))
                pooled.append(text.pooled_BC.cpu().to(dtype))
        tensors = {"context": torch.cat(contexts), "pooled": torch.cat(pooled)}
        finite = torch.isfinite(torch.cat([each.flatten(1) for each in tensors.values()], dim=1)).all(1)
        if not finite.all():
            caption = pairs[int((~finite).nonzero()[0])][1]
            raise DataError(
                f"The text '{caption[:60]}' is not finite in {self.encoder.dtype}. Cache with --dtype fp32,"
                " or check the text encoders."
            )
        self.home.write(
            f"{shard}.safetensors", shards.written(tensors, {"hashes": [name for name, _ in pairs]})
        )


class Texts:
    """Embeddings by the caption's hash."""

    def __init__(self, home: Place) -> None:
        """Read the index.

        Raises:
            MissingFileError: the cache is not finished.
        """
        _, listed = shards.read_index(home)
        self._firsts = [shard.group for shard in listed]
        self._rows = [shards.Rows(home, [shard]) for shard in listed]
        self._numbers: dict[int, dict[str, int]] = {}

    def read(self, caption_hash: str) -> Caption:
        """One caption's embeddings, in the numbers of the disk."""
        number = bisect_right(self._firsts, caption_hash) - 1
        rows = self._rows[number]
        if number not in self._numbers:
            told = rows.read(0, ())[1]["hashes"]
            self._numbers[number] = {name: row for row, name in enumerate(told)}
        (context_TC, pooled_C), _, _ = rows.read(self._numbers[number][caption_hash], ("context", "pooled"))
        return Caption(context_TC, pooled_C)


def texts_place(out: Place, encoder: Encoder) -> Place:
    """Where the embeddings of these encoders lie."""
    key = identity.key_of("text", identity.text_identity(Path(encoder.model)), _VERSION, encoder.dtype)
    return Place(f"{out.root}/{FOLDER}/text-{key}")


def cache_texts(ingested: Manifest, encoder: Encoder, runner: Runner, heard: Heard) -> Place:
    """Make the embeddings of every caption of an accepted picture, and of the empty one."""
    work = Writing(ingested.place, encoder)
    home, plan = work.home, _cut(ingested)
    home.write(_PLAN, json.dumps(plan, ensure_ascii=False).encode())
    _plan.cache_clear()
    runner.run(work, heard)
    listed = []
    for name, pairs in plan.items():
        digest = hashlib.sha256(home.read(f"{name}.safetensors")).hexdigest()
        listed.append(shards.Shard(name, len(pairs), pairs[0][0], "", digest))
    facts = {"manifest": ingested.digest, "text": identity.text_identity(Path(encoder.model))}
    shards.write_index(home, {**facts, "dtype": encoder.dtype}, listed)
    home.remove(WORK)
    return home


def _cut(ingested: Manifest) -> dict[str, list[tuple[str, str]]]:
    words = ingested.captions
    names = sorted({*ingested.accepted["caption_hash"].to_pylist()})
    pairs = [("", ""), *((name, words[name]) for name in names)]
    plan = {}
    for first in range(0, len(pairs), SHARD):
        part = pairs[first : first + SHARD]
        digest = hashlib.sha256("".join(name for name, _ in part).encode()).hexdigest()[:16]
        plan[f"text-{first // SHARD:05d}-{digest}"] = part
    return plan


@lru_cache(maxsize=1)
def _plan(home: Place) -> dict[str, list[tuple[str, str]]]:
    plan: dict[str, list[tuple[str, str]]] = json.loads(home.read(_PLAN))
    return plan


@lru_cache(maxsize=1)
def _stack(model: str, device: str) -> TextStack:
    return load_text(Path(model), device=torch.device(device), dtype=torch.float32)
