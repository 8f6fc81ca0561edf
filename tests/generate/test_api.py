"""The front door for programs: the command line's pictures, diffusers' modules, errors in sentences."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import (
    AutoencoderTiny,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from tests.generate.stock import size_of, stock_picture
from tests.generate.test_modes import CANVAS, assert_same
from tests.tiny import tiny_pipeline, tiny_stock

import ssd1b
from ssd1b.base.errors import LayoutError, PlanError
from ssd1b.cli.main import main
from ssd1b.generate import schedulers
from ssd1b.generate.canvas import digest_of, read_canvas
from ssd1b.generate.engines.fake import FakeDenoiser
from ssd1b.generate.model import Model
from ssd1b.generate.picture import read_record, read_request

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")

QUICK = {"steps": 2, "size": (64, 96)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> ssd1b.Pipeline:
    return ssd1b.load(folder, device="cpu", engine="torch")


def test_a_call_makes_the_files_of_the_command_line_to_the_byte(
    folder: Path, pipe: ssd1b.Pipeline, tmp_path: Path
) -> None:
    words = ["a (fox:1.2), {flat|soft} style", "--negative", "blurry", "--steps", "2", "--size", "64x96"]
    words += ["--guidance", "4", "--scheduler", "euler-a", "--seed", "7", "--count", "2"]
    place = ["--model", str(folder), "--device", "cpu", "--engine", "torch", "--out", str(tmp_path / "cli")]
    assert main(["generate", *words, *place]) == 0
    result = pipe(words[0], negative="blurry", guidance=4, scheduler="euler-a", seed=7, count=2, **QUICK)
    ours, theirs = sorted(result.save(tmp_path / "api")), sorted((tmp_path / "cli").iterdir())
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]
    assert result.seconds > 0 and [request.seed for request in result.requests] == [7, 8]


def test_painting_inside_a_mask_is_the_command_lines_to_the_byte(
    folder: Path, pipe: ssd1b.Pipeline, tmp_path: Path
) -> None:
    image, mask = tmp_path / "image.png", tmp_path / "mask.png"
    CANVAS.image.save(image)
    CANVAS.mask.save(mask)
    words = ["an owl", "--image", str(image), "--mask", str(mask), "--strength", "0.8", "--steps", "3"]
    words += ["--size", "64x96", "--seed", "7", "--out", str(tmp_path / "cli.png")]
    assert main(["generate", *words, "--model", str(folder), "--device", "cpu", "--engine", "torch"]) == 0
    said = {"strength": 0.8, "steps": 3, "width": 64, "height": 96, "seed": 7}
    for source in ((image, str(mask)), (image.read_bytes(), mask), (CANVAS.image, CANVAS.mask)):
        result = pipe("an owl", image=source[0], mask=source[1], **said)
        [path] = result.save(tmp_path / "api.png")
        assert path.read_bytes() == (tmp_path / "cli.png").read_bytes()
        path.unlink()


def test_several_prompts_are_made_prompt_by_prompt_and_seed_by_seed(pipe: ssd1b.Pipeline) -> None:
    result = pipe(["a fox", "an owl"], seed=3, count=2, batch=4, **QUICK)
    made = [(request.prompt, request.seed) for request in result.requests]
    assert made == [("a fox", 3), ("a fox", 4), ("an owl", 3), ("an owl", 4)]
    assert_same(result.images[2], pipe("an owl", seed=3, **QUICK).images[0])
    assert len({image.tobytes() for image in result.images}) == 4


def test_a_second_pass_and_what_saves_work_stand_in_the_request(pipe: ssd1b.Pipeline) -> None:
    said = {"hires": 1.5, "hires_strength": 0.5, "hires_upscaler": "lanczos", "upscale": 2}
    result = pipe("a fox", seed=1, guidance_until=0.5, reuse=2, plain=True, **said, **QUICK)
    told = result.requests[0].model_dump()
    assert told.items() >= {**said, "guidance_until": 0.5, "reuse": 2, "syntax": "plain"}.items()
    assert result.images[0].size == (192, 288)


def test_left_out_means_what_the_model_is_best_at_and_none_is_left_out(pipe: ssd1b.Pipeline) -> None:
    one = pipe("a fox", seed=1, steps=1).requests[0]
    other = pipe("a fox", seed=1, steps=1, size=None, guidance=None, image=None, count=None).requests[0]
    best = pipe.model.defaults
    assert one == other
    assert (one.width, one.height, one.guidance, one.scheduler) == (128, 128, best.guidance, best.scheduler)
    assert pipe("a fox", steps=1, size=(64, 64)).requests[0].seed < 2**32
    sizes = [{"size": "112x144"}, {"size": (112, 144)}, {"width": 112, "height": 144}, {"aspect": "7:9"}]
    asked = [pipe("a fox", steps=1, guidance=1, **size).requests[0] for size in sizes]
    assert {(request.width, request.height) for request in asked} == {(112, 144)}


def test_a_file_carries_the_request_and_the_engine_whatever_its_kind(
    pipe: ssd1b.Pipeline, tmp_path: Path
) -> None:
    result = pipe("a fox", seed=7, **QUICK)
    for suffix in (".png", ".jpg", ".webp"):
        [path] = result.save(tmp_path, suffix)
        assert path.name == f"a-fox-7{suffix}" and read_request(path) == result.requests[0]
        assert read_record(path)[1]["engine"] == "torch"
    with pytest.raises(ssd1b.UserError, match=r"not written as '.gif'"):
        result.save(tmp_path, ".gif")


def test_each_step_is_heard_and_a_call_can_be_left(pipe: ssd1b.Pipeline) -> None:
    heard: list[tuple[int, int]] = []

    def leave_at_two(step: ssd1b.Step) -> None:
        heard.append((step.number, step.total))
        if step.number == 2:
            raise ssd1b.Cancelled

    with pytest.raises(ssd1b.Cancelled):
        pipe("a fox", seed=1, steps=4, size=(64, 64), on_step=leave_at_two)
    assert heard == [(1, 4), (2, 4)]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"stepz": 4}, "Did you mean 'steps'?"),
        ({"steps": "4"}, "'steps'"),
        ({"seed": "7"}, "'seed'"),
        ({"seed": 2**63}, "'seed'"),
        ({"scheduler": "eulr"}, "Did you mean 'euler'?"),
        ({"size": 64}, "'64' is not a size"),
        ({"size": (64, 65)}, "multiples of 8"),
        ({"width": 64}, "only one was given"),
        ({"size": "64x64", "width": 64, "height": 64}, "Give one of them"),
        ({"size": "64x64", "aspect": "1:1"}, "Give one of them"),
        ({"aspect": 1.5}, "nine aspect ratios"),
        ({"count": 0}, "'count' is a whole number"),
        ({"count": True}, "'count' is a whole number"),
        ({"batch": 1.5}, "'batch' is a whole number"),
        ({"mask": Image.new("L", (8, 8), 255)}, "give the picture as image="),
        ({"strength": 0.5}, "give the picture too"),
        ({"image": "nowhere.png"}, "There is no picture nowhere.png"),
        ({"image": 7}, "'image' is of type int"),
        ({"image": Image.new("RGB", (0, 8))}, "no pixels"),
        ({"image": CANVAS.image, "mask": Image.new("L", (8, 8), 255)}, "the picture's own size"),
        ({"hires": 9}, "'hires'"),
    ],
)
def test_what_cannot_be_made_is_said_in_a_sentence(
    pipe: ssd1b.Pipeline, said: dict[str, object], told: str
) -> None:
    with pytest.raises(ssd1b.UserError) as error:
        pipe("a fox", **said)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("prompt", [None, 7, [], ["a fox", None]])
def test_a_prompt_is_text(pipe: ssd1b.Pipeline, prompt: object) -> None:
    with pytest.raises(ssd1b.UserError, match="prompt"):
        pipe(prompt, **QUICK)


def test_a_model_device_or_engine_that_is_not_there_is_said_in_a_sentence(folder: Path) -> None:
    for said in ({"name": "mini-sdd"}, {"device": "gpu"}, {"dtype": "float8"}, {"engine": "onnx"}):
        with pytest.raises(ssd1b.UserError):
            ssd1b.load(**{"name": folder, **said})


def test_a_name_that_the_package_does_not_hand_out_is_missing_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        ssd1b.lode  # noqa: B018


def drawn_by_stock(stock: StableDiffusionXLPipeline, request: ssd1b.Request, **more: object) -> Image.Image:
    """What a stock pipeline makes of a request, as its users call it."""
    stock.set_progress_bar_config(disable=True)
    return stock_picture(stock, request, **(more or size_of(request)))


def modules_of(model: Model) -> tuple[object, ...]:
    return (model.denoiser.unet, model.vae.vae, *(encoder.model for encoder in model.text.encoders))


@pytest.mark.parametrize("negative", [None, "", "blurry"])
def test_a_pipeline_given_to_diffusers_makes_the_same_picture_there(
    pipe: ssd1b.Pipeline, negative: str | None
) -> None:
    ours = pipe("a fox, flat style", negative=negative, guidance=5.0, seed=7, **QUICK)
    assert_same(ours.images[0], drawn_by_stock(pipe.to_diffusers(), ours.requests[0]))


def test_it_paints_over_a_picture_with_diffusers_own_class_too(pipe: ssd1b.Pipeline) -> None:
    ours = pipe("an owl", image=CANVAS.image, size=(64, 96), strength=0.6, steps=5, seed=7)
    stock = StableDiffusionXLImg2ImgPipeline(**pipe.to_diffusers().components, add_watermarker=False)
    assert_same(ours.images[0], drawn_by_stock(stock, ours.requests[0], image=CANVAS.image, strength=0.6))


@pytest.mark.parametrize("scheduler", ["euler", "dpm++-2m-karras", "unipc"])
@pytest.mark.parametrize("force_zeros", [True, False])
def test_a_wrapped_pipeline_of_diffusers_makes_the_picture_it_makes_itself(
    scheduler: str, force_zeros: bool
) -> None:
    stock = tiny_stock(force_zeros=force_zeros)
    stock.scheduler = schedulers.build(scheduler, stock.scheduler.config, steps=4)
    ours = ssd1b.wrap(stock)("a fox, flat style", guidance=5.0, seed=7, **QUICK)
    assert ours.requests[0].scheduler == scheduler, "the scheduler that is there is the default"
    assert_same(ours.images[0], drawn_by_stock(stock, ours.requests[0]))


def test_a_wrapped_pipeline_that_takes_guidance_as_an_input_does_so_here() -> None:
    stock = tiny_stock(time_cond_proj_dim=9)
    stock.scheduler = schedulers.build("lcm", stock.scheduler.config, steps=4)
    pipe = ssd1b.wrap(stock)
    ours = pipe("a fox", guidance=8.0, seed=7, **QUICK)
    assert pipe.model.takes_guidance and ours.requests[0].scheduler == "lcm"
    assert_same(ours.images[0], drawn_by_stock(stock, ours.requests[0]))


def test_there_and_back_the_modules_are_the_same_and_so_is_the_file(
    pipe: ssd1b.Pipeline, tmp_path: Path
) -> None:
    back = ssd1b.wrap(pipe.to_diffusers())
    pairs = zip(modules_of(pipe.model), modules_of(back.model), strict=True)
    assert all(one is other for one, other in pairs)
    assert back.model.defaults == pipe.model.defaults
    files = [
        each("a fox", seed=7, **QUICK).save(tmp_path / name)[0] for each, name in ((pipe, "1"), (back, "2"))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_tiny_decoder_goes_to_diffusers_and_comes_back(folder: Path, tmp_path: Path) -> None:
    AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).save_pretrained(
        tmp_path / "decoder"
    )
    pipe = ssd1b.load(folder, device="cpu", engine="torch", tiny_decoder=tmp_path / "decoder")
    stock = pipe.to_diffusers()
    ours = pipe("a fox", guidance=5.0, seed=7, **QUICK)
    assert_same(ours.images[0], drawn_by_stock(stock, ours.requests[0]))
    back = ssd1b.wrap(stock)
    assert (pipe.model.decoder, back.model.decoder) == ("decoder", "tiny")
    assert back("a fox", guidance=5.0, seed=7, **QUICK).images[0].tobytes() == ours.images[0].tobytes()


def test_what_diffusers_saves_of_it_is_the_model_again(pipe: ssd1b.Pipeline, tmp_path: Path) -> None:
    pipe.to_diffusers().save_pretrained(tmp_path / "again")
    again = ssd1b.load(tmp_path / "again", device="cpu", engine="torch")
    one, other = (each("a fox", seed=7, **QUICK).images[0] for each in (pipe, again))
    assert one.tobytes() == other.tobytes()


def test_a_pipeline_loaded_by_diffusers_is_named_after_its_place_without_the_way_there(folder: Path) -> None:
    stock = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    assert ssd1b.wrap(stock).model.name == folder.name
    assert ssd1b.wrap(tiny_stock()).model.name == "StableDiffusionXLPipeline"


def test_what_is_not_a_whole_sdxl_pipeline_is_refused_by_name() -> None:
    stock = tiny_stock()
    parts = {**stock.components, "text_encoder_2": None}
    with pytest.raises(LayoutError, match="without text_encoder_2"):
        ssd1b.wrap(StableDiffusionXLPipeline(**parts, add_watermarker=False))
    older = {
        name: stock.components[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
    }
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    with pytest.raises(LayoutError, match="A StableDiffusionPipeline without text_encoder_2"):
        ssd1b.wrap(StableDiffusionPipeline(**older, **rest))
    with pytest.raises((LayoutError, PlanError), match="channels"):
        ssd1b.wrap(tiny_stock(in_channels=9))


def test_a_pipeline_that_accelerate_moves_about_is_refused() -> None:
    stock = tiny_stock()
    add_hook_to_module(stock.unet, ModelHook())
    with pytest.raises(ssd1b.UserError, match="moved between devices"):
        ssd1b.wrap(stock)
    remove_hook_from_module(stock.unet)
    assert ssd1b.wrap(stock).model.placement.device.type == "cpu"


def test_a_picture_in_memory_is_the_picture_in_a_file() -> None:
    clear = Image.new("RGBA", (40, 30), (200, 20, 20, 100))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    assert digest_of(read_canvas(clear).image) == digest_of(read_canvas(buffer.getvalue()).image)


def test_what_runs_on_another_engine_is_not_given_to_diffusers(pipe: ssd1b.Pipeline) -> None:
    other = ssd1b.Pipeline(replace(pipe.model, denoiser=FakeDenoiser(), engine="openvino int8"))
    with pytest.raises(ssd1b.UserError, match="runs on openvino int8"):
        other.to_diffusers()
