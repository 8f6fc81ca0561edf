"""The cache: encoded once, the same bytes from anybody, and never a stale entry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.data import made
from tests.tiny import tiny_pipeline

from ssd1b.base.errors import DamagedFileError, DataError, MissingFileError, RecipeError
from ssd1b.data import cache, shards
from ssd1b.data.buckets import sized
from ssd1b.data.cache import Encoder, cache_latents
from ssd1b.data.images import ImageBatches, ImageData, caches
from ssd1b.data.manifest import Manifest, fit_of
from ssd1b.data.pictures import prepared
from ssd1b.data.places import Place
from ssd1b.data.runners import Alone, Pool
from ssd1b.data.texts import cache_texts
from ssd1b.models.encoders import encode_pixels, load_text, load_vae


def nobody(more: int) -> None:
    """Hears nothing."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def ready(tmp_path_factory, model) -> Manifest:
    """An ingested folder with latents, mirrored ones and texts."""
    home = tmp_path_factory.mktemp("ready")
    found = made.ingested(
        made.folder(home / "in", 13, ((128, 128), (150, 80), (80, 170))), home / "out", least_px=32
    )
    cache_latents(found, Encoder(str(model)), Alone(), nobody, flips=True)
    cache_texts(found, Encoder(str(model)), Alone(), nobody)
    return found


def latents(found: Manifest) -> Place:
    return next(home for home, _, _ in caches(found.place, "latents-"))


def test_a_row_is_what_the_vae_says_of_the_prepared_picture(ready, model) -> None:
    vae = load_vae(model, device=torch.device("cpu"), dtype=torch.float32)
    rows = {row["id"]: row for row in ready.accepted.to_pylist()}
    _, listed = shards.read_index(latents(ready))
    assert {shard.variant for shard in listed} == {"", "flipped"}
    for shard in listed:
        tensors = load_file(Path(latents(ready).root) / shard.file)
        told = shards.about(latents(ready), shard.file)
        assert tensors["latent"].dtype == torch.float16 and told["refused"] == []
        for number, name in enumerate(told["ids"]):
            row = rows[name]
            data = (Path(ready.place.root).parent / "in" / row["key"]).read_bytes()
            pixels = torch.from_numpy(prepared(data, fit_of(row)).copy()).permute(2, 0, 1)[None].float()
            pixels = pixels.flip(3) if shard.variant else pixels
            want = encode_pixels(vae, pixels / 127.5 - 1)[0]
            assert torch.allclose(tensors["latent"][number].float(), want, atol=2e-3)
            left = (
                row["resized_width"] - sized(row["bucket"])[0] - row["left"] if shard.variant else row["left"]
            )
            width, height = sized(row["bucket"])
            wanted = [row["height"], row["width"], row["top"], left, height, width]
            assert tensors["time_ids"][number].tolist() == wanted
            assert told["captions"][number] == ready.captions[row["caption_hash"]]


def test_workers_make_the_same_bytes_and_the_same_command_again_makes_none(ready, model, monkeypatch) -> None:
    before = made.contents(Path(ready.place.root))
    for path in Path(latents(ready).root).glob("*.safetensors"):
        path.unlink()
    with pytest.raises(MissingFileError, match="is gone"):
        ImageBatches(model, ImageData(ready.place.root), 4, 0).batch_at(0)
    cache_latents(ready, Encoder(str(model)), Pool(2), nobody, flips=True)
    assert made.contents(Path(ready.place.root)) == before
    monkeypatch.setattr("ssd1b.data.cache.encode_pixels", None)
    cache_latents(ready, Encoder(str(model)), Alone(), nobody)
    assert made.contents(Path(ready.place.root)) == before


def test_another_vae_another_format_and_other_preprocessing_lie_elsewhere(
    ready, model, tmp_path, monkeypatch
) -> None:
    homes = {latents(ready).root}
    homes.add(cache.latents_place(ready.place, Encoder(str(model), "bf16")).root)
    other = tiny_pipeline(tmp_path / "other")
    weights = other / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    homes.add(cache.latents_place(ready.place, Encoder(str(other))).root)
    with pytest.raises(MissingFileError, match="no finished cache that the VAE of"):
        ImageBatches(other, ImageData(ready.place.root), 4, 0)
    monkeypatch.setattr("ssd1b.data.pictures.PREPROCESS_VERSION", 2)
    homes.add(cache.latents_place(ready.place, Encoder(str(model))).root)
    assert len(homes) == 4


def test_a_picture_that_changed_since_is_never_encoded(model, tmp_path) -> None:
    found = made.ingested(made.folder(tmp_path / "in", 3), tmp_path / "out")
    (tmp_path / "in" / "0001.png").write_bytes(made.encoded(made.picture(99, (192, 80))))
    with pytest.raises(DataError, match=r"0001\.png has changed since it was ingested"):
        cache_latents(found, Encoder(str(model)), Alone(), nobody)


def test_what_is_not_finite_is_left_out_and_named(model, tmp_path, monkeypatch) -> None:
    found = made.ingested(made.folder(tmp_path / "in", 4, ((128, 128),)), tmp_path / "out")
    real = encode_pixels

    def spoilt(vae: object, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        latent_BCHW = real(vae, pixels_BCHW).clone()
        latent_BCHW[2] = float("nan")
        return latent_BCHW

    monkeypatch.setattr("ssd1b.data.cache.encode_pixels", spoilt)
    home = cache_latents(found, Encoder(str(model)), Alone(), nobody)
    _, [shard] = shards.read_index(home)
    assert shard.rows == 3 and shards.about(home, shard.file)["refused"] == ["0002.png"]
    assert ImageBatches(model, ImageData(str(tmp_path / "out")), 3, 0).order.counts == {"128x128": 3}


def test_a_number_that_the_format_cannot_hold_is_refused(model, tmp_path, monkeypatch) -> None:
    found = made.ingested(made.folder(tmp_path / "in", 2), tmp_path / "out")
    real = encode_pixels
    monkeypatch.setattr("ssd1b.data.cache.encode_pixels", lambda vae, pixels: real(vae, pixels) + 1e5)
    with pytest.raises(DataError, match=r"more than fp16 holds. Cache with --dtype bf16 or fp32"):
        cache_latents(found, Encoder(str(model)), Alone(), nobody)
    for dtype, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        home = cache_latents(found, Encoder(str(model), dtype), Alone(), nobody)
        _, listed = shards.read_index(home)
        assert load_file(Path(home.root) / listed[0].file)["latent"].dtype == kind


def test_a_damaged_shard_is_named(ready, tmp_path) -> None:
    home = Place(str(tmp_path))
    _, listed = shards.read_index(latents(ready))
    data = latents(ready).read(listed[0].file)
    home.write(listed[0].file, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamagedFileError, match="SHA-256"):
        shards.checked(home, listed[0])
    shards.checked(latents(ready), listed[0])
    home.write(listed[0].file, data[:-7])
    with pytest.raises(DamagedFileError, match="damaged"):
        shards.Rows(home, listed[:1]).read(0, ("latent",))


def batches(ready: Manifest, model: Path, **data: object) -> Iterator[ImageBatches]:
    return ImageBatches(model, ImageData.parse({"path": ready.place.root, **data}), 4, 0)


def test_an_epoch_of_batches_has_every_sample_once(ready, model) -> None:
    source = batches(ready, model)
    seen = [name for step in range(source.order.before(1)) for name in source.batch_at(step).ids]
    assert len(seen) == len(set(seen)) == 13 - sum(source.order.left_over(0).values())
    assert set(seen) <= set(ready.accepted["id"].to_pylist())


def test_ranks_share_a_batch_and_asking_in_another_order_changes_nothing(ready, model) -> None:
    plain, other = batches(ready, model), batches(ready, model)
    other.batch_at(9)
    for step in (0, 1, 2, 7, 3):
        whole = plain.batch_at(step)
        again = other.batch_at(step)
        assert whole.ids == again.ids and torch.equal(whole.latent_BCHW, again.latent_BCHW)
        shares = [other.batch_at(step, rank, 2) for rank in range(2)]
        assert tuple(sorted(whole.ids)) == tuple(sorted(shares[0].ids + shares[1].ids))
        assert torch.equal(shares[1].latent_BCHW, whole.latent_BCHW[1::2])
    with pytest.raises(RecipeError, match="cannot be shared evenly by 3"):
        plain.batch_at(0, 0, 3)


def test_captions_are_encoded_the_same_whether_they_were_kept_or_not(ready, model, tmp_path) -> None:
    kept = batches(ready, model)
    assert kept._words.texts is not None
    fresh = batches(ready, model)
    fresh._words.texts = None
    a, b = kept.batch_at(1), fresh.batch_at(1)
    assert torch.allclose(a.context_BTC, b.context_BTC, atol=5e-3)
    assert torch.allclose(a.pooled_BC, b.pooled_BC, atol=5e-3)
    assert torch.allclose(kept.empty().context_TC, fresh.empty().context_TC, atol=5e-3)
    stack = load_text(model, device=torch.device("cpu"), dtype=torch.float32)
    words = {row["id"]: ready.captions[row["caption_hash"]] for row in ready.accepted.to_pylist()}
    assert torch.allclose(stack.encode([words[name] for name in b.ids]).context_BTC, b.context_BTC, atol=1e-5)


def test_each_caption_is_kept_once(ready) -> None:
    home, _, listed = next(each for each in caches(ready.place, "text-"))
    hashes = [name for shard in listed for name in shards.about(home, shard.file)["hashes"]]
    assert len(hashes) == len(set(hashes)) == 7 + 1  # seven captions and the empty one


def test_about_half_of_the_samples_are_mirrored_and_keep_their_noise_apart(ready, model) -> None:
    source = batches(ready, model, flips=True)
    names = [name for step in range(60) for name in source.batch_at(step).ids]
    mirrored = sum("-flipped" in name for name in names)
    assert 0.4 < mirrored / len(names) < 0.6


def test_a_sample_that_a_small_bucket_repeats_has_a_name_of_its_own(model, tmp_path) -> None:
    found = made.ingested(made.folder(tmp_path / "in", 2, ((128, 128),)), tmp_path / "out")
    cache_latents(found, Encoder(str(model)), Alone(), nobody)
    ids = ImageBatches(model, ImageData(str(tmp_path / "out")), 5, 0).batch_at(0).ids
    assert len(set(ids)) == 5


def test_mirrored_pictures_that_are_not_there_are_asked_for(model, tmp_path) -> None:
    found = made.ingested(made.folder(tmp_path / "in", 2), tmp_path / "out")
    with pytest.raises(MissingFileError, match="no finished cache"):
        ImageBatches(model, ImageData(str(tmp_path / "out")), 2, 0)
    cache_latents(found, Encoder(str(model)), Alone(), nobody)
    with pytest.raises(MissingFileError, match="--flips` adds them"):
        ImageBatches(model, ImageData(str(tmp_path / "out"), flips=True), 2, 0)


def test_a_cache_of_another_manifest_is_not_used(ready, model, tmp_path) -> None:
    found = made.ingested(made.folder(tmp_path / "in", 2), tmp_path / "out")
    home = cache_latents(found, Encoder(str(model)), Alone(), nobody)
    facts, listed = shards.read_index(home)
    shards.write_index(home, {**facts, "manifest": "0" * 64}, listed)
    with pytest.raises(MissingFileError, match="another manifest"):
        ImageBatches(model, ImageData(str(tmp_path / "out")), 2, 0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "data: {path: FOLDER}"),
        ({"pth": "x"}, "Did you mean 'path'"),
        ({"path": "x", "flips": "yes"}, "must be a bool"),
        ({"path": 3}, "must be a str"),
    ],
)
def test_a_recipes_data_is_checked(data, said) -> None:
    with pytest.raises(RecipeError, match=said):
        ImageData.parse(data)


def test_nothing_accepted_is_nothing_to_encode(model, tmp_path) -> None:
    path = made.folder(tmp_path / "in", 1)
    (path / "0000.txt").unlink()
    with pytest.raises(DataError, match="nothing to encode"):
        cache_latents(made.ingested(path, tmp_path / "out"), Encoder(str(model)), Alone(), nobody)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["versions"]["pillow"]
