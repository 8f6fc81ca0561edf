"""Batches of mini scenes for training: latents made once and kept, captions encoded as they are asked for.

A pure function of (parts, settings, step): bucket, scenes and phrasings all follow from the seed and the
step. It does not know what is trained on them.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file

from ssd1b.base.errors import RecipeError, nearest
from ssd1b.base.files import sha256_file
from ssd1b.base.seeds import seed_of
from ssd1b.base.units import latent_side
from ssd1b.mini.scenes import BUCKETS, Scene, Weights, caption, draw, training_scene
from ssd1b.models.batch import Batch, Caption
from ssd1b.models.encoders import encode_pixels, load_text, load_vae, time_ids

SQUARE_SHARE = 0.5
_ENCODE = 32
_CODE_VERSION = 5  # raise when scenes or their latents change


@dataclass(frozen=True, slots=True)
class MiniData:
    """Which scenes a stage trains on: how many, from which seed, how often one, one placed, or two things."""

    scenes: int = 24_000
    seed: int = 3
    one: int = 5
    place: int = 2
    two: int = 4

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> MiniData:
        """Read a recipe's `data:`.

        Raises:
            RecipeError: a key is unknown or a value is not a whole number.
        """
        for key, value in data.items():
            if key not in cls.__dataclass_fields__:
                close = nearest(key, cls.__dataclass_fields__)
                hint = f" Did you mean '{close}'?" if close else ""
                raise RecipeError(f"data: the mini source has no key '{key}'.{hint}")
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise RecipeError(f"data.{key} must be a whole number of at least 0, not {value!r}.")
        return cls(**{key: int(str(value)) for key, value in data.items()})

    @property
    def weights(self) -> Weights:
        """How often each kind of scene comes, in the order one, place, two."""
        return (self.one, self.place, self.two)

    def rows(self, bucket: int) -> int:
        """How many scenes a bucket holds: half of all are square."""
        share = SQUARE_SHARE if bucket == 0 else (1 - SQUARE_SHARE) / (len(BUCKETS) - 1)
        return max(1, round(self.scenes * share))


class MiniBatches:
    """A batch source (`models.batch.BatchSource`) over mini scenes, encoded by one model's frozen parts."""

    def __init__(self, parts: Path, data: MiniData, batch: int, seed: int, cache: Path) -> None:
        """Load the encoders of `parts`; make, or find in `cache`, the latents. `seed` orders the batches."""
        self.data, self.batch, self.seed = data, batch, seed
        self.text = load_text(parts, device=torch.device("cpu"), dtype=torch.float32)
        key = seed_of(_CODE_VERSION, _weights_hash(parts / "vae"), data.seed, data.scenes, *data.weights)
        self.folder = cache / f"latents-{key:016x}"
        self._make(parts)
        self.latents = [load_file(self._file(bucket))["latent"] for bucket in range(len(BUCKETS))]

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Rank's slice of global batch `step`: one bucket for all ranks, scenes drawn with replacement."""
        rng = random.Random(seed_of(self.seed, "batch", step))
        bucket = 0 if rng.random() < SQUARE_SHARE else rng.randrange(1, len(BUCKETS))
        rows = [rng.randrange(self.data.rows(bucket)) for _ in range(self.batch)][rank :: max(world, 1)]
        says = [caption(self._scene(bucket, row), seed_of(self.seed, "words", step, row)) for row in rows]
        text = self.text.encode(says)
        width, height = BUCKETS[bucket]
        return Batch(
            latent_BCHW=self.latents[bucket][rows].float(),
            context_BTC=text.context_BTC.clone(),
            pooled_BC=text.pooled_BC.clone(),
            time_ids_B6=torch.tensor([time_ids((height, width))] * len(rows), dtype=torch.float32),
            ids=tuple(f"mini-{self.data.seed}-{bucket}-{row}" for row in rows),
        )

    def empty(self) -> Caption:
        """The empty caption, encoded."""
        text = self.text.encode([""])
        return Caption(text.context_BTC[0].clone(), text.pooled_BC[0].clone())

    def _scene(self, bucket: int, row: int) -> Scene:
        return training_scene(self.data.seed, row * len(BUCKETS) + bucket, BUCKETS[bucket], self.data.weights)

    def _file(self, bucket: int) -> Path:
        width, height = BUCKETS[bucket]
        return self.folder / f"{width}x{height}.safetensors"

    def _make(self, parts: Path) -> None:
        """Encode the missing buckets. Under torchrun each process takes its share and awaits the others'."""
        rank, world = (
            int(os.environ.get(name, least)) for name, least in (("RANK", "0"), ("WORLD_SIZE", "1"))
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        mine = [
            n for n, rows in enumerate(self._shares(world)) if rows == rank and not self._file(n).exists()
        ]
        if mine:
            vae = load_vae(parts, device=torch.device("cpu"), dtype=torch.float32)
            vae.to(memory_format=torch.channels_last)
            blocks = [(n, first) for n in mine for first in range(0, self.data.rows(n), _ENCODE)]
            made: dict[int, list[torch.Tensor]] = {n: [] for n in mine}
            for n, first in track(blocks, "mini latents", console=Console(stderr=True), disable=rank > 0):
                pixels = np.stack([draw(self._scene(n, row)) for row in self._rows(n, first)])
                pixels_BCHW = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
                made[n].append(encode_pixels(vae, pixels_BCHW).half())
                if first + _ENCODE >= self.data.rows(n):
                    self._keep(n, torch.cat(made.pop(n)))
        while not all(self._file(n).exists() for n in range(len(BUCKETS))):
            time.sleep(0.2)

    def _keep(self, bucket: int, latent_BCHW: torch.Tensor) -> None:
        part = self._file(bucket).with_suffix(f".part{os.getpid()}")
        save_file({"latent": latent_BCHW.contiguous()}, part)
        part.replace(self._file(bucket))

    @staticmethod
    def _shares(world: int) -> list[int]:
        """Which process encodes which bucket: the square one is as much work as the other eight together."""
        return [0, *((1 + n % (world - 1)) if world > 1 else 0 for n in range(len(BUCKETS) - 1))]

    def _rows(self, bucket: int, first: int) -> Iterator[int]:
        return iter(range(first, min(first + _ENCODE, self.data.rows(bucket))))


def latent_bytes(data: MiniData) -> int:
    """What the cached latents of these scenes take: four channels in half precision."""
    return sum(
        data.rows(number) * 4 * 2 * latent_side(width) * latent_side(height)
        for number, (width, height) in enumerate(BUCKETS)
    )


def _weights_hash(folder: Path) -> str:
    return "-".join(sha256_file(path) for path in sorted(folder.glob("*.safetensors")))
