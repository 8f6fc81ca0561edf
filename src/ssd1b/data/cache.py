"""The cache: latents of every accepted picture, and the text embeddings if asked for, made once.

    cache/latents-<key>/   key: VAE (hash of its weights and configuration), preprocessing, number format
    cache/text-<key>/      key: both text encoders and tokenizers, number format

A shard's name is a hash of the samples, crops and captions in it. So a changed picture, size or encoder leads
to other names, and never to an old entry. Encoding goes picture by picture (small ones in fixed groups), on
one thread of a processor, so that the bytes do not depend on who made them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ssd1b.base.errors import DataError
from ssd1b.data import identity, manifest, pictures, shards
from ssd1b.data.buckets import Fit, sized
from ssd1b.data.ingest import WORK
from ssd1b.data.kept import FOLDER as KEPT
from ssd1b.data.manifest import Manifest
from ssd1b.data.places import Place
from ssd1b.data.runners import Heard, Runner
from ssd1b.data.sources import Spec, open_source
from ssd1b.data.sources.archives import read_member
from ssd1b.models.encoders import encode_pixels, load_vae, time_ids

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

SHARD = 256
FOLDER = "cache"
_VERSION = 1  # raise when the numbers of a shard change for another reason than preprocessing
_GROUP_PX = 1 << 17
_PLAN, _NAMES = f"{WORK}/plan.parquet", f"{WORK}/names.json"
STRAIGHT, FLIPPED = "", "flipped"
_COLUMNS = ("id", "key", "locator", "width", "height", "bucket", "resized_width", "resized_height",
            "left", "top", "caption_hash")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoder:
    """Who encodes: a complete diffusers folder, where it runs, and the numbers kept on disk."""

    model: str
    dtype: str = "fp16"
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Encoding:
    """The work of the workers: the pictures of a shard in, their latents out."""

    out: Place
    source: Spec
    encoder: Encoder

    @property
    def home(self) -> Place:
        """The folder of these latents."""
        return latents_place(self.out, self.encoder)

    def shards(self) -> Sequence[str]:
        """Every shard of every bucket and variant."""
        return list(_names(self.home))

    def size(self, shard: str) -> int:
        """Pictures in a shard."""
        return _names(self.home)[shard]

    def is_done(self, shard: str) -> bool:
        """Whether the file is there."""
        return self.home.exists(f"{shard}.safetensors")

    def leases(self) -> Place:
        """In the work folder."""
        return Place(f"{self.home.root}/{WORK}/leases")

    def make(self, shard: str) -> None:
        """Encode the pictures of a shard; what is not finite is left out and named.

        Raises:
            DataError: a picture has changed since it was ingested, or a number does not fit the format.
        """
        rows = _planned(self.home, self.shards().index(shard))
        flip = shard.endswith(f"-{FLIPPED}")
        latents, kept, refused = [], [], []
        for row, latent_CHW in zip(rows, self._encoded(rows, flip), strict=True):
            if not torch.isfinite(latent_CHW).all():
                refused.append(row["key"])
                continue
            latents.append(_held(latent_CHW, self.encoder.dtype, str(row["key"])))
            kept.append(row)
        told = {
            "ids": [row["id"] for row in kept],
            "captions": [row["caption"] for row in kept],
            "caption_hashes": [row["caption_hash"] for row in kept],
            "refused": refused,
        }
        tensors = {"time_ids": torch.tensor([_time_ids(row, flip) for row in kept], dtype=torch.int32)}
        if kept:
            tensors["latent"] = torch.stack(latents)
        self.home.write(f"{shard}.safetensors", shards.written(tensors, told))

    def _encoded(self, rows: Sequence[Mapping[str, Any]], flip: bool) -> Iterator[Tensor]:
        """Latents in float32, in order, encoded in groups that depend on the bucket alone."""
        vae = _vae(self.encoder.model, self.encoder.device)
        width, height = sized(str(rows[0]["bucket"]))
        group = max(1, _GROUP_PX // (width * height))
        with one_thread(self.encoder.device):
            for first in range(0, len(rows), group):
                made = [self._pixels(row) for row in rows[first : first + group]]
                pixels_BCHW = torch.stack(made).permute(0, 3, 1, 2).float() / 127.5 - 1
                pixels_BCHW = pixels_BCHW.flip(3) if flip else pixels_BCHW
                yield from encode_pixels(vae, pixels_BCHW).float().cpu()

    def _pixels(self, row: Mapping[str, Any]) -> Tensor:
        locator = str(row["locator"])
        kept = locator.startswith(f"{KEPT}/") and self.source.kind == "hub"
        try:
            data = read_member(self.out, locator) if kept else open_source(self.source).read(locator)
        except OSError as error:
            raise DataError(f"{row['key']} cannot be read any more: {error}. {_AGAIN}") from error
        if hashlib.blake2b(data, digest_size=16).hexdigest() != row["id"]:
            raise DataError(f"{row['key']} has changed since it was ingested. {_AGAIN}")
        return torch.from_numpy(pictures.prepared(data, manifest.fit_of(dict(row))).copy())


_AGAIN = "Put the picture back as it was, or ingest the source into another folder. Finished shards are kept."


def latents_place(out: Place, encoder: Encoder) -> Place:
    """Where the latents of this encoder lie."""
    vae = identity.vae_identity(Path(encoder.model))
    key = identity.key_of("latents", vae, pictures.PREPROCESS_VERSION, _VERSION, encoder.dtype)
    return Place(f"{out.root}/{FOLDER}/latents-{key}")


def cache_latents(
    ingested: Manifest, encoder: Encoder, runner: Runner, heard: Heard, *, flips: bool = False
) -> Place:
    """Make the latents of every accepted picture, or what is missing of them.

    Raises:
        DataError: see `Encoding.make`; or nothing was accepted.
    """
    out = ingested.place
    told = json.loads(out.read("manifest.json"))["source"]
    work = Encoding(out, Spec(**told["spec"]), encoder)
    names = write_plan(work.home, ingested, (STRAIGHT, FLIPPED) if flips else (STRAIGHT,))
    runner.run(work, heard)
    before = shards.read_index(work.home)[1] if work.home.exists(shards.INDEX) else []
    known = {shard.name: shard for shard in before}
    listed = [known[each[0]] if each[0] in known else _listed(work.home, *each) for each in names]
    ours = {shard.name for shard in listed}
    listed += [shard for shard in before if shard.name not in ours and shard.variant == FLIPPED]
    facts = {
        "manifest": ingested.digest,
        "vae": identity.vae_identity(Path(encoder.model)),
        "dtype": encoder.dtype,
        "preprocessing": pictures.PREPROCESS_VERSION,
    }
    shards.write_index(work.home, facts, listed)
    work.home.remove(WORK)
    _names.cache_clear()
    return work.home


def _listed(home: Place, name: str, bucket: str, variant: str) -> shards.Shard:
    digest = hashlib.sha256(home.read(f"{name}.safetensors")).hexdigest()
    rows = len(shards.about(home, f"{name}.safetensors")["ids"])
    return shards.Shard(name, rows, bucket, variant, digest)


def write_plan(home: Place, ingested: Manifest, variants: Sequence[str]) -> list[tuple[str, str, str]]:
    """Cut every bucket into shards and write down which rows each holds: (name, bucket, variant).

    Raises:
        DataError: nothing was accepted.
    """
    if not ingested.accepted.num_rows:
        raise DataError(f"No picture of {ingested.place.root} was accepted: there is nothing to encode.")
    rows = ingested.accepted.select(_COLUMNS)
    words = ingested.captions
    rows = rows.append_column("caption", [[words[name] for name in rows["caption_hash"].to_pylist()]])
    names, sizes, out = [], [], io.BytesIO()
    with pq.ParquetWriter(out, rows.schema, compression="zstd") as writer:
        for variant in variants:
            for bucket, numbers in ingested.by_bucket().items():
                for first in range(0, len(numbers), SHARD):
                    part = rows.take(pa.array(numbers[first : first + SHARD]))
                    writer.write_table(part, row_group_size=SHARD)
                    names.append((_shard_name(bucket, part, variant), bucket, variant))
                    sizes.append(part.num_rows)
    home.write(_PLAN, out.getvalue())
    home.write(
        _NAMES, json.dumps([[name[0], size] for name, size in zip(names, sizes, strict=True)]).encode()
    )
    _names.cache_clear()
    return names


def _shard_name(bucket: str, rows: pa.Table, variant: str) -> str:
    made_from = rows.select([name for name in _COLUMNS if name not in ("key", "locator")]).to_pylist()
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    return f"{bucket}-{digest}-{variant}" if variant else f"{bucket}-{digest}"


def _held(latent_CHW: Tensor, dtype: str, key: str) -> Tensor:
    held_CHW = latent_CHW.to(shards.DTYPES[dtype])
    if not torch.isfinite(held_CHW).all():
        most = float(latent_CHW.abs().max())
        raise DataError(
            f"The latents of {key} reach {most:.3g}, more than {dtype} holds."
            " Cache with --dtype bf16 or fp32."
        )
    return held_CHW


def _time_ids(row: Mapping[str, Any], flip: bool) -> list[int]:
    """SDXL's six numbers (arXiv:2307.01952, section 2.2) from what was decided at ingestion."""
    fit: Fit = manifest.fit_of(dict(row))
    left = fit.resized[0] - fit.left - fit.bucket[0] if flip else fit.left
    width, height = fit.bucket
    return time_ids((row["height"], row["width"]), (fit.top, left), (height, width))


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """On a processor, sums are split over threads: one thread gives the same bits everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _planned(home: Place, number: int) -> list[dict[str, Any]]:
    with home.opened(_PLAN) as file:
        rows: list[dict[str, Any]] = pq.ParquetFile(file).read_row_group(number).to_pylist()
    return rows


@lru_cache(maxsize=1)
def _names(home: Place) -> dict[str, int]:
    return {str(name): int(size) for name, size in json.loads(home.read(_NAMES))}


@lru_cache(maxsize=1)
def _vae(model: str, device: str) -> AutoencoderKL:
    vae = load_vae(Path(model), device=torch.device(device), dtype=torch.float32)
    return vae.to(memory_format=torch.channels_last)
