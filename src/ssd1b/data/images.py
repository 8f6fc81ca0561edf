"""Batches of cached pictures for training: the `source: images` of a recipe.

A pure function of (cache, settings, step). Latents are read from the cache; captions from it too where their
embeddings were kept, else they are encoded as they are asked for. It does not know what is trained on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssd1b.base.errors import MissingFileError, RecipeError, did_you_mean
from ssd1b.base.files import sha256_file
from ssd1b.base.seeds import seed_of
from ssd1b.data import identity, shards
from ssd1b.data.batches import Order, Picks
from ssd1b.data.cache import FLIPPED, FOLDER, STRAIGHT
from ssd1b.data.manifest import MANIFEST
from ssd1b.data.pictures import PREPROCESS_VERSION
from ssd1b.data.places import Place
from ssd1b.data.shards import Rows, Shard
from ssd1b.data.texts import Texts
from ssd1b.models.batch import Batch, Caption
from ssd1b.models.encoders import TextStack, load_text


@dataclass(frozen=True, slots=True)
class ImageData:
    """What a stage trains on: an ingested folder, mirrored or not."""

    path: str
    flips: bool = False

    @classmethod
    def parse(cls, data: Mapping[str, object]) -> ImageData:
        """Read a recipe's `data:`.

        Raises:
            RecipeError: a key is unknown, of the wrong kind, or `path` is missing.
        """
        kinds: dict[str, type] = {"path": str, "flips": bool}
        for key, value in data.items():
            if key not in kinds:
                raise RecipeError(f"data: the images source has no key '{key}'.{did_you_mean(key, kinds)}")
            if type(value) is not kinds[key]:
                raise RecipeError(f"data.{key} must be a {kinds[key].__name__}, not {value!r}.")
        if "path" not in data:
            raise RecipeError(
                "The images source needs `data: {path: FOLDER}`, a folder that `ssd1b data ingest` and"
                " `ssd1b data cache` made; on the command line --set 'stages.*.data.path=FOLDER'."
            )
        return cls(**data)  # type: ignore[arg-type]


class ImageBatches:
    """A batch source (`models.batch.BatchSource`) over a cache."""

    def __init__(self, parts: Path, data: ImageData, batch: int, seed: int) -> None:
        """Find the cache that the VAE of `parts` made. `seed` orders the batches.

        Raises:
            MissingFileError: there is none, or none with what `data` asks for.
        """
        self.data, self.batch, self.seed = data, batch, seed
        home, listed = _latents(Place(data.path), parts, data.flips)
        buckets = dict.fromkeys(shard.group for shard in listed)
        variants = (STRAIGHT, FLIPPED) if data.flips else (STRAIGHT,)
        self._rows = {
            (bucket, variant): Rows(home, [s for s in listed if (s.group, s.variant) == (bucket, variant)])
            for bucket in buckets
            for variant in variants
        }
        counts = {bucket: len(self._rows[bucket, STRAIGHT]) for bucket in buckets}
        self.order = Order({bucket: count for bucket, count in counts.items() if count}, batch, seed)
        self._words = _Words(Place(data.path), parts)

    def batch_at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """Rank's slice of global batch `step`.

        Raises:
            RecipeError: the batch cannot be shared out evenly.
        """
        if self.batch % world:
            raise RecipeError(
                f"A batch of {self.batch} cannot be shared evenly by {world} processes: samples would weigh"
                " differently. Make the batch a multiple of the processes."
            )
        return self._made(step, rank, world)

    def empty(self) -> Caption:
        """The empty caption, encoded."""
        return self._words.empty()

    def _made(self, step: int, rank: int, world: int) -> Batch:
        whole = self.order.at(step)
        names = _told_apart(whole)[rank::world]
        picks = whole.share(rank, world)
        latents, sizes, ids, captions = [], [], [], []
        for row, turn, again in zip(picks.rows, picks.passes, names, strict=True):
            name, flip = self._variant(picks.bucket, row, turn)
            (latent, time_ids), told, inside = self._rows[picks.bucket, flip].read(
                row, ("latent", "time_ids")
            )
            latents.append(latent.float())
            sizes.append(time_ids.float())
            ids.append(f"{name}{'-flipped' if flip else ''}{again}")
            captions.append((told["caption_hashes"][inside], told["captions"][inside]))
        context_BTC, pooled_BC = self._words.encode(captions)
        return Batch(torch.stack(latents), context_BTC, pooled_BC, torch.stack(sizes), tuple(ids))

    def _variant(self, bucket: str, row: int, turn: int) -> tuple[str, str]:
        """A sample's id, and whether it is mirrored in this pass."""
        _, told, inside = self._rows[bucket, STRAIGHT].read(row, ())
        name = str(told["ids"][inside])
        mirrored = self.data.flips and seed_of(self.seed, "flip", name, turn) & 1
        return name, FLIPPED if mirrored else STRAIGHT


def _told_apart(picks: Picks) -> list[str]:
    """What is put behind ids, so that a sample that a small bucket repeats gets noise of its own."""
    seen: Counter[int] = Counter()
    marks = []
    for row in picks.rows:
        marks.append(f"+{seen[row]}" if seen[row] else "")
        seen[row] += 1
    return marks


class _Words:
    """Embeddings of captions: from the disk where they were kept, else from the encoders."""

    def __init__(self, out: Place, parts: Path) -> None:
        self.parts = parts
        self._stack: TextStack | None = None
        self.texts = _texts(out, parts)

    def encode(self, captions: Sequence[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(context, pooled) of (hash, text) pairs, float32."""
        if self.texts is not None:
            found = [self.texts.read(name) for name, _ in captions]
            context_BTC = torch.stack([one.context_TC for one in found]).float()
            return context_BTC, torch.stack([one.pooled_C for one in found]).float()
        text = self._encoders().encode([words for _, words in captions])
        return text.context_BTC.clone(), text.pooled_BC.clone()

    def empty(self) -> Caption:
        """The empty caption."""
        context_BTC, pooled_BC = self.encode([("", "")])
        return Caption(context_BTC[0], pooled_BC[0])

    def _encoders(self) -> TextStack:
        if self._stack is None:
            self._stack = load_text(self.parts, device=torch.device("cpu"), dtype=torch.float32)
        return self._stack


def _latents(out: Place, parts: Path, flips: bool) -> tuple[Place, list[Shard]]:
    """The finished latents that this VAE made of this manifest; the finest numbers if there are several."""
    vae, found = identity.vae_identity(parts), []
    for home, facts, listed in caches(out, "latents-"):
        if facts["vae"] == vae and facts["preprocessing"] == PREPROCESS_VERSION:
            found.append((["fp32", "bf16", "fp16"].index(facts["dtype"]), home, facts, listed))
    command = f"`ssd1b data cache {out.root} --model {parts}`"
    if not found:
        raise MissingFileError(
            f"{out.root} has no finished cache that the VAE of {parts} made. Make one: {command}."
        )
    _, home, facts, listed = min(found, key=lambda each: each[0])
    if facts["manifest"] != sha256_file(out.fetched(MANIFEST)):
        raise MissingFileError(f"The cache in {out.root} is of another manifest. Make it again: {command}.")
    mirrored = [shard.rows for shard in listed if shard.variant == FLIPPED]
    if flips and mirrored != [shard.rows for shard in listed if shard.variant == STRAIGHT]:
        raise MissingFileError(
            f"{home.root} has no mirrored pictures for all. {command[:-1]} --flips` adds them."
        )
    return home, listed


def _texts(out: Place, parts: Path) -> Texts | None:
    """The finished embeddings that these encoders made, if captions were kept."""
    homes = list(caches(out, "text-"))
    if not homes:
        return None
    text = identity.text_identity(parts)
    return next((Texts(home) for home, facts, _ in homes if facts["text"] == text), None)


def caches(out: Place, kind: str = "") -> list[tuple[Place, dict[str, Any], list[Shard]]]:
    """Every finished cache of a kind in an ingested folder."""
    found = []
    for name, _ in out.files(FOLDER) if out.exists(FOLDER) else ():
        folder, _, file = name.rpartition("/")
        if file == shards.INDEX and folder.startswith(f"{FOLDER}/{kind}"):
            home = Place(f"{out.root}/{folder}")
            found.append((home, *shards.read_index(home)))
    return found
