"""The denoising loop against stock diffusers on the same random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.generate.stock import size_of, stock_picture
from tests.tiny import tiny_pipeline, tiny_stock

from ssd1b.base.errors import RequestError
from ssd1b.generate import schedulers
from ssd1b.generate.engines.fake import FakeDenoiser
from ssd1b.generate.engines.torch import TorchAutoencoder, TorchDenoiser
from ssd1b.generate.load import read_model
from ssd1b.generate.model import Model
from ssd1b.generate.pipeline import Cancelled, Step, batches, sample, sample_latents
from ssd1b.generate.preview import Previewer
from ssd1b.generate.request import Request
from ssd1b.models.device import choose

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")

FOX = Request(
    prompt="a fox, flat style",
    width=64,
    height=96,
    steps=4,
    guidance=5.0,
    scheduler="euler",
    seed=7,
)


def drawn_by_stock(pipeline: StableDiffusionXLPipeline, request: Request, own: Model) -> Image.Image:
    """What diffusers itself makes of a request."""
    pipeline.scheduler = schedulers.build(request.scheduler, own.scheduler_config, request.steps)
    return stock_picture(pipeline, request, **size_of(request))


def assert_same(ours: Image.Image, theirs: Image.Image) -> None:
    """Pixel for pixel, but for one colour in a thousand that the order of a sum may round the other way."""
    gap = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int))
    assert gap.max() <= 1 and (gap > 0).mean() < 0.001


@pytest.mark.parametrize("scheduler", schedulers.NAMES)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_every_scheduler_makes_the_picture_of_stock_diffusers(
    model: Model, stock: StableDiffusionXLPipeline, scheduler: str, guidance: float
) -> None:
    request = FOX.model_copy(update={"scheduler": scheduler, "guidance": guidance})
    assert_same(sample(model, [request])[0], drawn_by_stock(stock, request, model))


@pytest.mark.parametrize("negative", [None, "", "blurry"])
@pytest.mark.parametrize("force_zeros", [True, False])
def test_an_empty_and_a_missing_negative_prompt_mean_what_they_mean_in_diffusers(
    model: Model, negative: str | None, force_zeros: bool
) -> None:
    request = FOX.model_copy(update={"negative": negative})
    ours = sample(replace(model, zero_negative=force_zeros), [request])[0]
    assert_same(ours, drawn_by_stock(tiny_stock(force_zeros=force_zeros), request, model))


def test_the_model_index_decides_what_a_missing_negative_prompt_means(tmp_path: Path) -> None:
    said = [
        read_model("t", tiny_pipeline(tmp_path / str(force), force_zeros=force), choose("cpu")).zero_negative
        for force in (True, False)
    ]
    assert said == [True, False]


def test_a_model_that_takes_guidance_as_an_input_is_asked_once_a_step_as_in_diffusers() -> None:
    stock = tiny_stock(time_cond_proj_dim=9)
    folderless = _model_of(stock)
    request = FOX.model_copy(update={"scheduler": "lcm", "guidance": 8.0})
    assert folderless.takes_guidance
    assert_same(sample(folderless, [request])[0], drawn_by_stock(stock, request, folderless))


@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")
def test_half_precision_makes_the_picture_of_stock_diffusers_up_to_rounding(folder: Path) -> None:
    own = read_model("tiny", folder, choose("cpu", "float16"))
    stock = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float16, add_watermarker=False)
    stock.set_progress_bar_config(disable=True)
    request = FOX.model_copy(update={"steps": 2})
    ours, theirs = sample(own, [request])[0], drawn_by_stock(stock, request, own)
    gap = np.asarray(ours).astype(int) - np.asarray(theirs).astype(int)
    assert np.abs(gap).max() <= 2, "torch's float16 on processors is not exact from call to call"


@pytest.mark.parametrize("scheduler", ["euler", "euler-a", "lcm", "dpm++-2m-karras"])
def test_a_picture_does_not_depend_on_the_batch_it_is_made_in(model: Model, scheduler: str) -> None:
    requests = [
        FOX.model_copy(update={"scheduler": scheduler, "seed": seed, "prompt": prompt, "negative": negative})
        for seed, prompt, negative in [(1, "a fox", None), (2, "a pizza", "blue"), (3, "", "")]
    ]
    together = sample_latents(model, requests)
    alone = torch.cat([sample_latents(model, [request]) for request in requests])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_the_same_request_gives_the_same_bytes_and_another_seed_does_not(model: Model) -> None:
    first, again, other = (sample(model, [FOX.model_copy(update={"seed": seed})])[0] for seed in (7, 7, 8))
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_guidance_asks_the_network_for_both_halves_in_one_call(model: Model) -> None:
    fake = FakeDenoiser()
    sample_latents(replace(model, denoiser=fake), [FOX, FOX.model_copy(update={"seed": 8})])
    sample_latents(replace(model, denoiser=fake), [FOX.model_copy(update={"guidance": 1.0})])
    assert fake.calls == [4, 4, 4, 4, 1, 1, 1, 1]


def test_each_step_is_told_and_a_callback_can_stop_the_run_at_once(model: Model) -> None:
    fake = FakeDenoiser()
    told: list[tuple[int, int]] = []

    def stop_at_two(step: Step) -> None:
        told.append((step.number, step.total))
        if step.number == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        sample(replace(model, denoiser=fake), [FOX], stop_at_two)
    assert told == [(1, 4), (2, 4)]
    assert len(fake.calls) == 2


def test_more_steps_than_a_scheduler_has_is_said_in_one_paragraph(model: Model) -> None:
    with pytest.raises(RequestError, match="'lcm' cannot take 60 steps"):
        sample(model, [FOX.model_copy(update={"scheduler": "lcm", "steps": 60})])


def test_an_unfinished_picture_can_be_looked_at(model: Model) -> None:
    looked: list[Image.Image] = []
    preview = Previewer(model.vae)
    sample(model, [FOX], lambda step: looked.append(preview.image(step.latent_BCHW[0])))
    assert [image.size for image in looked] == [(8, 12)] * 4


def test_a_preview_of_a_linear_autoencoder_shows_its_colours() -> None:
    class Mean(torch.nn.Module):
        """Latents are the mean colours themselves, and a channel of nothing."""

        dtype, device = torch.float32, torch.device("cpu")
        config = {"scaling_factor": 0.5}  # noqa: RUF012

        def encode(self, pixels_BCHW: torch.Tensor) -> object:
            mean = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
            mean = torch.cat([mean, torch.zeros_like(mean[:, :1])], dim=1)
            return type("Out", (), {"latent_dist": type("Dist", (), {"mean": mean})()})()

    latent = torch.tensor([1.0, -1.0, 0.2, 0.0]).view(4, 1, 1).expand(4, 2, 3) * 0.5
    image = Previewer(TorchAutoencoder(Mean())).image(latent)
    assert image.size == (3, 2)
    assert image.getpixel((0, 0)) == (255, 0, 153)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([64, 72]), max_size=12), st.integers(1, 4))
def test_batches_keep_the_order_and_never_mix_sizes(widths: list[int], size: int) -> None:
    requests = [FOX.model_copy(update={"width": width, "seed": i}) for i, width in enumerate(widths)]
    cut = list(batches(requests, size))
    assert [request for batch in cut for request in batch] == requests
    assert all(len({request.width for request in batch}) == 1 and len(batch) <= size for batch in cut)


def _model_of(stock: StableDiffusionXLPipeline) -> Model:
    """Our model around the parts of a stock pipeline."""
    from ssd1b.generate.model import defaults_of
    from ssd1b.models.encoders import CLIPEncoder, TextStack
    from ssd1b.plan.shape import shape_of

    shape = shape_of(stock.unet.config)
    return Model(
        name="stock",
        folder=None,
        denoiser=TorchDenoiser(stock.unet),
        vae=TorchAutoencoder(stock.vae),
        text=TextStack(
            (stock.tokenizer, stock.tokenizer_2),
            (CLIPEncoder(stock.text_encoder), CLIPEncoder(stock.text_encoder_2)),
        ),
        scheduler_config=dict(stock.scheduler.config),
        shape=shape,
        defaults=defaults_of(shape, stock.scheduler.config),
        placement=choose("cpu"),
        zero_negative=stock.config.force_zeros_for_empty_prompt,
        takes_guidance=stock.unet.config.time_cond_proj_dim is not None,
    )
