"""Text and pixels encoded exactly as stock diffusers encodes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import MAX_TOKENS, tiny_pipeline, tiny_vae

from ssd1b.base.errors import MissingFileError
from ssd1b.models.encoders import (
    TextBatch,
    TextStack,
    decode_latents,
    encode_pixels,
    joined,
    load_text,
    load_vae,
    time_ids,
)
from ssd1b.models.folder import load_unet, part_folder, weight_variant

CPU = torch.device("cpu")
PROMPTS = ["a fox, flat style", "", "Ünïcode 🦊 " * 20, "a" * 500]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def text(folder: Path) -> TextStack:
    return load_text(folder, device=CPU, dtype=torch.float32)


def test_text_is_encoded_as_stock_diffusers_encodes_it(folder: Path, text: TextStack) -> None:
    stock = StableDiffusionXLPipeline.from_pretrained(folder)
    context, negative, pooled, negative_pooled = stock.encode_prompt(
        PROMPTS, device=CPU, do_classifier_free_guidance=True
    )
    ours = text.encode(PROMPTS)
    torch.testing.assert_close(ours.context_BTC, context, rtol=0, atol=0)
    torch.testing.assert_close(ours.pooled_BC, pooled, rtol=0, atol=0)
    torch.testing.assert_close(ours.zeros().context_BTC, negative, rtol=0, atol=0)
    torch.testing.assert_close(ours.zeros().pooled_BC, negative_pooled, rtol=0, atol=0)
    assert ours.context_BTC.shape == (len(PROMPTS), MAX_TOKENS, 48)


def test_text_keeps_its_rows_when_batches_are_joined_and_repeated(text: TextStack) -> None:
    batch = text.encode(["a", "b"])
    assert len(joined(batch, batch.zeros())) == 4
    twice = batch.repeat(2)
    torch.testing.assert_close(twice.pooled_BC[0], twice.pooled_BC[1])
    torch.testing.assert_close(twice.pooled_BC[2], batch.pooled_BC[1])
    assert isinstance(twice, TextBatch)


def test_the_text_encoders_are_frozen(text: TextStack) -> None:
    for encoder in (wrapped.model for wrapped in text.encoders):
        assert not encoder.training
        assert not any(weight.requires_grad for weight in encoder.parameters())


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_can_be_encoded_and_what_is_cut_off_is_named(text: TextStack, prompt: str) -> None:
    encoded = text.encode([prompt])
    assert torch.isfinite(encoded.context_BTC).all()
    ids = text.tokenizers[0](prompt, verbose=False).input_ids
    if len(ids) <= MAX_TOKENS:
        assert text.overflow(prompt) == ""


def test_the_end_of_a_prompt_that_is_not_seen_is_told(text: TextStack) -> None:
    assert text.overflow("a fox") == ""
    assert text.overflow("abcdefghijklmnopqrstuv" + "xyz") == "xyz"


def test_size_numbers_are_height_before_width() -> None:
    assert time_ids((96, 64)) == [96, 64, 0, 0, 96, 64]
    assert time_ids((96, 64), (1, 2), (128, 128)) == [96, 64, 1, 2, 128, 128]


def test_pixels_become_scaled_latents_as_in_diffusers() -> None:
    vae = tiny_vae()
    pixels = torch.rand(2, 3, 64, 48) * 2 - 1
    with torch.inference_mode():
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape)
        torch.testing.assert_close(encode_pixels(vae, pixels), posterior.mean * vae.config.scaling_factor)
        sampled = (posterior.mean + posterior.std * noise) * vae.config.scaling_factor
        torch.testing.assert_close(encode_pixels(vae, pixels, noise_BCHW=noise), sampled)


def test_latents_with_statistics_of_their_own_come_back_unchanged() -> None:
    vae = tiny_vae()
    vae.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0])
    plain = tiny_vae()
    plain.load_state_dict(vae.state_dict())
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    seen = decode_latents(vae, encode_pixels(vae, pixels))
    torch.testing.assert_close(seen, decode_latents(plain, encode_pixels(plain, pixels)))
    assert float(seen.min()) >= 0 and float(seen.max()) <= 1


def test_a_half_precision_autoencoder_that_overflows_works_in_float32_and_goes_back() -> None:
    vae = tiny_vae().to(torch.float16)
    latent = torch.randn(1, 4, 8, 8, dtype=torch.float16)
    exact = decode_latents(tiny_vae_like(vae), latent)
    torch.testing.assert_close(decode_latents(vae, latent), exact)
    assert vae.dtype == torch.float16


def tiny_vae_like(vae: torch.nn.Module) -> torch.nn.Module:
    """The same weights, in float32."""
    twin = tiny_vae()
    twin.load_state_dict(vae.state_dict())
    return twin


def test_half_precision_weights_are_taken_where_they_are_wanted_or_alone(tmp_path: Path) -> None:
    for name in ("both", "half", "plain"):
        (tmp_path / name).mkdir()
    for name in ("both/model.safetensors", "plain/model.safetensors"):
        (tmp_path / name).touch()
    for name in ("both/model.fp16.safetensors", "half/model.fp16-00001-of-00002.safetensors"):
        (tmp_path / name).touch()
    chosen = {
        (name, dtype): weight_variant(tmp_path / name, dtype)
        for name in ("both", "half", "plain")
        for dtype in (torch.float16, torch.float32)
    }
    assert [key for key, variant in chosen.items() if variant == "fp16"] == [
        ("both", torch.float16),
        ("half", torch.float16),
        ("half", torch.float32),
    ]


@pytest.mark.parametrize("shard", [None, "1MB"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_every_way_of_storing_weights_is_read(tmp_path: Path, variant: str | None, shard: str | None) -> None:
    folder = tiny_pipeline(tmp_path / "model", variant=variant, max_shard_size=shard)
    unet = load_unet(folder, device=CPU, dtype=torch.float32)
    assert unet.dtype == load_vae(folder, device=CPU, dtype=torch.float32).dtype == torch.float32
    assert load_text(folder, device=CPU, dtype=torch.float32).max_tokens == MAX_TOKENS


def test_a_missing_part_and_a_pickle_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no folder 'vae'"):
        part_folder(tmp_path, "vae")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(MissingFileError, match="Only safetensors are read"):
        load_unet(tmp_path, device=CPU, dtype=torch.float32)
