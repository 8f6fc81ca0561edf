"""Work left out at equal steps: what must stay the same does, and what is left out is left out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import tiny_pipeline

from ssd1b.base.errors import LayoutError, MissingFileError, RequestError
from ssd1b.generate.engines import Conditioning, in_rows
from ssd1b.generate.engines import torch as torch_engine
from ssd1b.generate.engines.fake import FakeDenoiser
from ssd1b.generate.engines.reuse import Reusing
from ssd1b.generate.engines.torch import TorchDenoiser
from ssd1b.generate.load import EngineWish, load, read_model, wish_of, with_tiny_decoder
from ssd1b.generate.model import KnownText, Model
from ssd1b.generate.pipeline import batches, sample, sample_latents
from ssd1b.generate.request import Request
from ssd1b.models.device import choose

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]
FOX = Request(prompt="a fox", width=64, height=96, steps=6, guidance=5.0, scheduler="euler", seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return read_model("tiny", folder, choose("cpu"))


def fed(model: Model, rows: int) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    text = model.text.encode(["a fox"] * rows)
    latent = torch.randn(rows, 4, 12, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[96.0, 64, 0, 0, 96, 64]] * rows)
    return latent, torch.full((rows,), 500), Conditioning(text.context_BTC, text.pooled_BC, ids)


@dataclass
class Spy:
    """Hands on to a torch denoiser and counts."""

    inner: TorchDenoiser
    calls: list[str] = field(default_factory=list)

    def predict_noise(self, latent, step, cond):  # type: ignore[no-untyped-def]
        self.calls.append(f"whole {latent.shape[0]}")
        return self.inner.predict_noise(latent, step, cond)

    def predict_keeping(self, latent, step, cond):  # type: ignore[no-untyped-def]
        self.calls.append(f"whole {latent.shape[0]}")
        return self.inner.predict_keeping(latent, step, cond)

    def predict_from(self, deep, latent, step, cond):  # type: ignore[no-untyped-def]
        self.calls.append(f"top {latent.shape[0]}")
        return self.inner.predict_from(deep, latent, step, cond)


@torch.inference_mode()
def test_the_top_of_the_unet_on_its_own_deep_features_answers_as_the_whole(model: Model) -> None:
    given = fed(model, 2)
    whole = model.denoiser.predict_noise(*given)
    kept, deep = model.denoiser.predict_keeping(*given)
    assert torch.equal(kept, whole)
    assert torch.equal(model.denoiser.predict_from(deep, *given), whole)
    assert not torch.equal(model.denoiser.predict_from(deep * 0, *given), whole)


@pytest.mark.parametrize("every, whole", [(1, 6), (2, 3), (3, 2), (5, 2), (20, 1)])
def test_each_nth_step_is_whole_and_the_first_always(model: Model, every: int, whole: int) -> None:
    spy = Spy(model.denoiser)  # type: ignore[arg-type]
    sample_latents(replace(model, denoiser=spy), [FOX.model_copy(update={"reuse": every})])
    assert len(spy.calls) == 6
    assert spy.calls[0] == "whole 2"
    assert spy.calls.count("whole 2") == whole


def test_reusing_changes_the_picture_little_and_not_reusing_not_at_all(model: Model) -> None:
    own = sample_latents(model, [FOX])
    assert torch.equal(sample_latents(model, [FOX.model_copy(update={"reuse": 1})]), own)
    other = sample_latents(model, [FOX.model_copy(update={"reuse": 2})])
    assert not torch.equal(other, own)
    assert float((other - own).norm() / own.norm()) < 0.5


@given(share=st.floats(0.01, 1.0), steps=st.integers(1, 12))
@settings(deadline=None, max_examples=25)
def test_guidance_ends_after_its_share_of_the_steps(share: float, steps: int) -> None:
    model = _MODEL[0]
    fake = FakeDenoiser()
    request = FOX.model_copy(update={"guidance_until": share, "steps": steps})
    sample_latents(replace(model, denoiser=fake), [request])
    guided = fake.calls.count(2)
    assert fake.calls == [2] * guided + [1] * (steps - guided)
    assert guided - 1 < share * steps <= guided


_MODEL: list[Model] = []


@pytest.fixture(autouse=True)
def _remembered(model: Model) -> None:
    _MODEL[:] = [model]


def test_after_guidance_only_the_prompts_rows_go_on_also_on_kept_features(model: Model) -> None:
    spy = Spy(model.denoiser)  # type: ignore[arg-type]
    request = FOX.model_copy(update={"guidance_until": 0.5, "reuse": 2})
    sample_latents(replace(model, denoiser=spy), [request])
    assert spy.calls == ["whole 2", "top 2", "whole 2", "top 1", "whole 1", "top 1"]


def test_the_steps_after_guidance_see_the_prompt_and_not_the_negative_one(model: Model) -> None:
    seen = []

    class Watch(FakeDenoiser):
        def predict_noise(self, latent, step, cond):  # type: ignore[no-untyped-def]
            seen.append(cond.context_BTC)
            return super().predict_noise(latent, step, cond)

    sample_latents(replace(model, denoiser=Watch()), [FOX.model_copy(update={"guidance_until": 0.5})])
    assert torch.equal(seen[-1], model.text.encode(["a fox"]).context_BTC)


def test_requests_that_save_differently_are_not_made_in_one_batch() -> None:
    changes = [{}, {"reuse": 2}, {"guidance_until": 0.5}, {"decoder": "taesdxl"}]
    requests = [FOX.model_copy(update=change) for change in changes]
    assert [len(batch) for batch in batches(requests, 4)] == [1, 1, 1, 1]


def test_a_unet_with_attention_at_the_top_is_not_cut(model: Model) -> None:
    assert model.can_reuse
    for depths in (
        {"down_depths": ((1, 1), *model.shape.down_depths[1:])},
        {"up_depths": (*model.shape.up_depths[:-1], (1, 1, 1))},
    ):
        other = replace(model, shape=replace(model.shape, **depths))
        with pytest.raises(RequestError, match="cannot reuse deep features"):
            sample_latents(other, [FOX.model_copy(update={"reuse": 2})])


def test_an_engine_that_cannot_be_cut_says_so(model: Model) -> None:
    with pytest.raises(RequestError, match="cannot reuse deep features"):
        sample_latents(replace(model, denoiser=FakeDenoiser()), [FOX.model_copy(update={"reuse": 2})])


@torch.inference_mode()
def test_row_by_row_gives_what_all_at_once_gives(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    given = fed(model, 3)
    together = model.denoiser.predict_noise(*given)
    apart = TorchDenoiser(model.denoiser.unet, at_once=1).predict_noise(*given)  # type: ignore[attr-defined]
    assert torch.allclose(apart, together, atol=1e-5)
    monkeypatch.setattr(torch_engine, "free_bytes", lambda device: 1)
    assert torch_engine.rows_at_once(model.denoiser.unet, given[0]) == 1  # type: ignore[attr-defined]
    monkeypatch.setattr(torch_engine, "free_bytes", lambda device: 10**12)
    assert torch_engine.rows_at_once(model.denoiser.unet, given[0]) == 3  # type: ignore[attr-defined]


@given(rows=st.integers(1, 7), at_once=st.integers(1, 8))
def test_rows_come_back_in_order_however_they_are_cut(rows: int, at_once: int) -> None:
    values = torch.arange(rows)
    (found,) = in_rows(rows, at_once, lambda which: (values[which] * 2,))
    assert found.tolist() == [2 * number for number in range(rows)]


def test_a_prompt_is_encoded_once_for_many_pictures_and_forgotten_in_time(model: Model) -> None:
    asked: list[str] = []

    class Text:
        def encode(self, prompts: list[str]) -> str:
            asked.extend(prompts)
            return f"<{prompts[0]}>"

    known = KnownText(most=2)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        assert known.of(prompt, "plain", Text()) == f"<{prompt}>"  # type: ignore[arg-type, comparison-overlap]
    assert asked == ["a", "b", "c", "b"]


@pytest.fixture(scope="module")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("taesd") / "taesdxl"
    widths = {"encoder_block_out_channels": [8] * 4, "decoder_block_out_channels": [8] * 4}
    AutoencoderTiny(**widths).save_pretrained(place)
    return place


def test_a_tiny_decoder_draws_what_stock_diffusers_draws_with_it(
    folder: Path, model: Model, tiny_decoder: Path
) -> None:
    loaded = load(str(folder), wish=EngineWish("torch", decoder=tiny_decoder))
    request = FOX.model_copy(update={"decoder": loaded.decoder})
    assert request.decoder == "taesdxl"
    latent = sample_latents(loaded, [request])
    stock = AutoencoderTiny.from_pretrained(tiny_decoder)
    with torch.inference_mode():
        wanted = (stock.decode(latent).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(loaded.vae.decode(latent), wanted, atol=1e-6)
    assert sample(loaded, [request])[0].size == (64, 96)
    assert loaded.vae.encode(torch.zeros(1, 3, 64, 64)).shape == (1, 4, 8, 8)


def test_the_miniatures_have_a_tiny_decoder_by_name() -> None:
    own, loaded = (
        load("mini-ssd", wish=EngineWish("torch", decoder=decoder)) for decoder in (None, Path("mini-tiny"))
    )
    assert loaded.decoder == "mini-tiny"
    latent = sample_latents(own, [FOX.model_copy(update={"width": 128, "height": 128, "prompt": "a fox"})])
    gap = (loaded.vae.decode(latent) - own.vae.decode(latent)).square().mean()
    assert 0 < float(gap) < 1e-2


def test_the_miniatures_tiny_decoder_is_not_given_to_a_model_for_photographs(model: Model) -> None:
    large = replace(model, shape=replace(model.shape, sample_size=128))
    with pytest.raises(RequestError, match="mini-tiny decodes the latents of the miniatures"):
        with_tiny_decoder(large, EngineWish("torch", decoder=Path("mini-tiny")))


def test_what_is_no_tiny_decoder_is_refused_with_its_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"config\.json"):
        load(str(folder), wish=EngineWish("torch", decoder=tmp_path))
    with pytest.raises(LayoutError, match="AutoencoderKL"):
        load(str(folder), wish=EngineWish("torch", decoder=folder / "vae"))


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RequestError, match=r"C\+\+ compiler"):
        torch_engine.compiled(model.denoiser.unet)  # type: ignore[attr-defined]


def test_compiling_and_openvino_do_not_go_together() -> None:
    with pytest.raises(RequestError, match="OpenVINO compiles by itself"):
        wish_of("openvino", compiled=True)
    assert wish_of("auto", compiled=True).engine == "torch"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_blocks_draw_the_same_picture(
    folder: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSD1B_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    loaded = load(str(folder), wish=EngineWish("torch", compiled=True))
    assert "compiled" in loaded.placement.reason
    assert torch.allclose(sample_latents(loaded, [FOX]), sample_latents(model, [FOX]), atol=1e-3)
    assert any((tmp_path / "compiled").iterdir())


def test_channels_last_draws_the_same_picture(folder: Path, model: Model) -> None:
    loaded = load(str(folder), wish=EngineWish("torch", channels_last=True))
    assert "channels last" in loaded.placement.reason
    assert torch.allclose(sample_latents(loaded, [FOX]), sample_latents(model, [FOX]), atol=1e-4)


def test_what_is_kept_from_one_run_is_not_seen_by_the_next(model: Model) -> None:
    request = FOX.model_copy(update={"reuse": 3})
    once = sample_latents(model, [request])
    sample_latents(model, [request.model_copy(update={"seed": 8})])
    assert torch.equal(sample_latents(model, [request]), once)
    assert isinstance(Reusing(model.denoiser, 3), Reusing)  # type: ignore[arg-type]
