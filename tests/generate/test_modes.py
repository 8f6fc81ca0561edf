"""Painting over a picture, inside a mask, and in two passes, against diffusers' own SDXL pipelines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image, ImageDraw
from tests.generate.stock import stock_picture

from ssd1b.base.errors import RequestError
from ssd1b.generate import schedulers
from ssd1b.generate.canvas import Canvas
from ssd1b.generate.model import Model
from ssd1b.generate.pipeline import batches, sample, sample_latents
from ssd1b.generate.request import Request, request_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")

FIELDS = {
    "prompt": "a fox, flat style",
    "negative": "blurry",
    "width": 64,
    "height": 96,
    "steps": 5,
    "guidance": 5.0,
    "scheduler": "euler",
    "seed": 7,
}


def drawn(size: tuple[int, int]) -> Image.Image:
    """A picture with something in it."""
    image = Image.new("RGB", size, "#204080")
    pen = ImageDraw.Draw(image)
    pen.ellipse((8, 8, size[0] - 20, size[1] - 30), "#f0a030")
    pen.line((0, 0, *size), "#ffffff", 5)
    return image


def left_half(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle((0, 0, size[0] // 2 - 1, size[1]), 255)
    return mask


CANVAS = Canvas(drawn((64, 96)), left_half((64, 96)))
OVER = {**FIELDS, "image": CANVAS.fields()["image"], "strength": 0.6}
INSIDE = {**FIELDS, **CANVAS.fields(), "strength": 0.6}


def asked_of_stock(
    kind: Callable[..., object],
    stock: StableDiffusionXLPipeline,
    request: Request,
    own: Model,
    **more: object,
) -> np.ndarray | torch.Tensor:
    """What diffusers itself makes of a request, with that kind of pipeline."""
    pipeline = kind(**stock.components, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = schedulers.build(request.scheduler, own.scheduler_config, request.steps)
    return stock_picture(pipeline, request, **more)


def assert_same(ours: Image.Image, theirs: Image.Image) -> None:
    """Pixel for pixel, but for one colour in a thousand that the order of a sum may round the other way."""
    gap = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int))
    assert gap.shape[:2] == (ours.height, ours.width)
    assert gap.max() <= 1 and (gap > 0).mean() < 0.001


@pytest.mark.parametrize("scheduler", schedulers.NAMES)
def test_a_picture_is_painted_over_as_stock_diffusers_does(
    model: Model, stock: StableDiffusionXLPipeline, scheduler: str
) -> None:
    request = request_of({**OVER, "scheduler": scheduler})
    theirs = asked_of_stock(
        StableDiffusionXLImg2ImgPipeline, stock, request, model, image=CANVAS.image, strength=0.6
    )
    assert_same(sample(model, [request], canvases=CANVAS.by_digest())[0], theirs)


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("scheduler", schedulers.NAMES)
def test_a_mask_is_painted_as_stock_diffusers_does_and_the_rest_stays_to_the_pixel(
    model: Model, stock: StableDiffusionXLPipeline, scheduler: str, strength: float
) -> None:
    request = request_of({**INSIDE, "scheduler": scheduler, "strength": strength})
    ours = sample(model, [request], canvases=CANVAS.by_digest())[0]
    theirs = asked_of_stock(
        StableDiffusionXLInpaintPipeline,
        stock,
        request,
        model,
        image=CANVAS.image,
        mask_image=CANVAS.mask,
        strength=strength,
        width=64,
        height=96,
    )
    assert_same(ours.crop((0, 0, 32, 96)), theirs.crop((0, 0, 32, 96)))
    right = (32, 0, 64, 96)
    assert ours.crop(right).tobytes() == CANVAS.image.crop(right).tobytes()


@pytest.mark.parametrize("scheduler", ["euler", "euler-a", "dpm++-2m-karras", "dpm++-sde", "ddim"])
def test_a_second_pass_on_latents_is_diffusers_text_to_image_and_then_image_to_image(
    model: Model, stock: StableDiffusionXLPipeline, scheduler: str
) -> None:
    request = request_of({**FIELDS, "scheduler": scheduler, "hires": 1.5, "hires_strength": 0.8})
    first = asked_of_stock(
        StableDiffusionXLPipeline, stock, request, model, width=64, height=96, output_type="latent"
    )
    larger = torch.nn.functional.interpolate(first[None], (18, 12), mode="bilinear", align_corners=False)
    second = asked_of_stock(
        StableDiffusionXLImg2ImgPipeline, stock, request, model, image=larger, strength=0.8
    )
    ours = sample(model, [request])[0]
    assert ours.size == (96, 144)
    assert_same(ours, second)


def test_a_second_pass_on_pixels_enlarges_the_first_picture_by_lanczos(
    model: Model, stock: StableDiffusionXLPipeline
) -> None:
    request = request_of({**FIELDS, "hires": 2, "hires_upscaler": "lanczos"})
    first = asked_of_stock(StableDiffusionXLPipeline, stock, request, model, width=64, height=96)
    larger = first.resize((128, 192), Image.Resampling.LANCZOS)
    second = asked_of_stock(
        StableDiffusionXLImg2ImgPipeline, stock, request, model, image=larger, strength=0.7
    )
    gap = np.abs(np.asarray(sample(model, [request])[0]).astype(int) - np.asarray(second).astype(int))
    assert gap.max() <= 1, "the first picture is rounded to 8 bits on the way"


def test_pictures_painted_over_do_not_depend_on_their_batch(model: Model) -> None:
    other = Canvas(Image.new("RGB", (64, 96), "#a02020"), CANVAS.mask)
    canvases = {**CANVAS.by_digest(), **other.by_digest()}
    requests = [
        request_of({**INSIDE, **canvas.fields(), "seed": seed, "scheduler": "euler-a"})
        for seed, canvas in ((1, CANVAS), (2, other))
    ]
    assert [len(batch) for batch in batches(requests, 2)] == [2]
    together = sample_latents(model, requests, canvases=canvases)
    alone = torch.cat([sample_latents(model, [request], canvases=canvases) for request in requests])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_a_picture_of_another_shape_is_scaled_to_cover_and_cropped(model: Model) -> None:
    wide = Canvas(drawn((192, 144)))
    cropped = Canvas(drawn((192, 144)).resize((128, 96), Image.Resampling.LANCZOS, (0, 0, 192, 144)))
    request = request_of({**OVER, **wide.fields()})
    middle = Canvas(cropped.image.crop((32, 0, 96, 96)))
    ours = sample(model, [request], canvases=wide.by_digest())[0]
    right = sample(model, [request_of({**OVER, **middle.fields()})], canvases=middle.by_digest())[0]
    gap = np.abs(np.asarray(ours).astype(int) - np.asarray(right).astype(int))
    assert gap.mean() < 1, "cropping before or after scaling only moves the filter's edge"


def test_less_strength_stays_nearer_to_the_picture(model: Model) -> None:
    latents = [
        sample_latents(model, [request_of({**OVER, "strength": strength})], canvases=CANVAS.by_digest())
        for strength in (0.2, 0.6, 1.0)
    ]
    steps = [request_of({**OVER, "strength": strength}).n_steps for strength in (0.2, 0.6, 1.0)]
    start = model.vae.encode(
        torch.from_numpy(np.asarray(CANVAS.image) / 127.5 - 1).float().permute(2, 0, 1)[None]
    )
    gaps = [(latent - start).square().mean().item() for latent in latents]
    assert steps == [1, 3, 5] and gaps == sorted(gaps)


def test_each_step_of_both_passes_is_told(model: Model) -> None:
    told: list[tuple[int, int]] = []
    request = request_of({**FIELDS, "steps": 4, "hires": 1.5, "hires_strength": 0.5})
    sample_latents(model, [request], lambda step: told.append((step.number, step.total)))
    assert told == [(number, 6) for number in range(1, 7)]


def test_the_finished_picture_is_enlarged_by_lanczos(model: Model) -> None:
    plain, larger = (sample(model, [request_of({**FIELDS, "upscale": times})])[0] for times in (1, 2))
    assert larger.tobytes() == plain.resize((128, 192), Image.Resampling.LANCZOS).tobytes()


def test_a_picture_that_was_not_given_is_asked_for(model: Model) -> None:
    with pytest.raises(RequestError, match="Give that picture"):
        sample(model, [request_of(OVER)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strength": 0.5}, "give the picture too"),
        ({"mask": "0" * 64}, "give the picture too"),
        ({"image": "0" * 64, "strength": 0}, "'strength'"),
        ({"image": "0" * 64, "strength": 1.1}, "'strength'"),
        ({"image": "0" * 64, "strength": 0.1}, "leaves none of 5 steps"),
        ({"image": "0" * 64, "mask": "0" * 64, "hires": 2}, "leave one of them out"),
        ({"image": "photo.png"}, "'image'"),
        ({"hires": 0.5}, "'hires'"),
        ({"hires": 2, "hires_strength": 0.1}, "leaves none of 5 steps"),
        ({"hires": 4, "width": 2048}, "more than 4096 pixels"),
        ({"upscale": 4, "width": 4096}, "more than 8192 pixels"),
        ({"hires_upscaler": "esrgan"}, "'hires_upscaler': must be 'latent' or 'lanczos'"),
        ({"syntax": "compel"}, "'syntax': must be 'weighted' or 'plain'"),
    ],
)
def test_modes_that_do_not_fit_together_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError) as error:
        request_of({**FIELDS, **change})
    assert said in str(error.value) and "\n" not in str(error.value)
