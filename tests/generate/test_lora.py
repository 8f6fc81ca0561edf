"""LoRA adapters on a model, against stock diffusers wearing the same files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionXLPipeline
from PIL import Image
from sd_parsers import ParserManager
from tests.formats.loras import STYLES, random_changes, write_lora
from tests.generate.stock import size_of, stock_picture, stock_pipeline
from tests.tiny import tiny_unet

from ssd1b.base.errors import LayoutError, RequestError
from ssd1b.generate import picture
from ssd1b.generate.adapters import Adapter, parse_adapter, put_on, read_adapter, wearing
from ssd1b.generate.asked import Asked, completed
from ssd1b.generate.infotext import parameters
from ssd1b.generate.load import load, read_model, wish_of
from ssd1b.generate.model import Model
from ssd1b.generate.pipeline import sample
from ssd1b.generate.request import Request, request_of
from ssd1b.models.device import choose
from ssd1b.plan.catalog import find
from ssd1b.plan.shape import shape_of
from ssd1b.surgery.carve import carve_state

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning:peft"),
]

FIELDS = {
    "prompt": "a fox",
    "negative": "blurry",
    "width": 64,
    "height": 64,
    "steps": 4,
    "guidance": 5.0,
    "scheduler": "euler",
    "seed": 7,
}
CONVOLUTIONS = ("resnets.0.conv1", "downsamplers.0.conv", "time_emb_proj", "attn1.to_q")


def unheard(_: str) -> None:
    """Nobody listens."""


@pytest.fixture
def stock(folder: Path) -> Iterator[StableDiffusionXLPipeline]:
    yield stock_pipeline(folder)


def of_stock(stock: StableDiffusionXLPipeline, request: Request) -> Image.Image:
    """What diffusers itself makes of a request, as the pipeline now is."""
    return stock_picture(stock, request, **size_of(request))


def of_ours(model: Model, adapters: list[Adapter], request: Request) -> Image.Image:
    with wearing(model, adapters, unheard) as worn:
        return sample(worn, [request])[0]


def gap(ours: Image.Image, theirs: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int))


def assert_same(ours: Image.Image, theirs: Image.Image) -> None:
    """Pixel for pixel, but for one colour in a thousand that the order of a sum may round the other way."""
    assert gap(ours, theirs).max() <= 1 and (gap(ours, theirs) > 0).mean() < 0.001


def test_a_lora_is_worn_as_stock_diffusers_wears_it(
    model: Model, stock: StableDiffusionXLPipeline, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    request = request_of(FIELDS)
    bare = of_ours(model, [], request)
    for style in STYLES:
        alpha = 1.0 if style in ("kohya", "ldm") else None
        path = write_lora(tmp_path / f"{style}.safetensors", random_changes(stock.unet), style, alpha=alpha)
        stock.load_lora_weights(path)
        theirs = of_stock(stock, request)
        stock.unload_lora_weights()
        with subtests.test(style):
            assert_same(of_ours(model, [read_adapter(str(path))], request), theirs)
            assert gap(bare, theirs).mean() > 1, "a file that changes nothing shows nothing"


def test_lcm_lora_names_convolutions_too_and_is_worn_with_its_scheduler(
    model: Model, stock: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    changes = random_changes(stock.unet, CONVOLUTIONS)
    path = write_lora(tmp_path / "lcm.safetensors", changes, "kohya", alpha=1.0)
    request = request_of({**FIELDS, "scheduler": "lcm", "guidance": 1.0})
    stock.scheduler = LCMScheduler.from_config(stock.scheduler.config)
    stock.load_lora_weights(path)
    assert_same(of_ours(model, [read_adapter(str(path))], request), of_stock(stock, request))


def test_several_weighted_adapters_are_stock_diffusers_set_adapters(
    model: Model, stock: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    texts = []
    for name, seed in (("a", 1), ("b", 2)):
        path = write_lora(
            tmp_path / f"{name}.safetensors", random_changes(stock.unet, seed=seed, rank=seed + 1)
        )
        stock.load_lora_weights(path, adapter_name=name)
        texts.append(str(path))
    stock.set_adapters(["a", "b"], [0.7, -0.4])
    ours = of_ours(
        model, [read_adapter(f"{texts[0]}:0.7"), read_adapter(f"{texts[1]}:-0.4")], request_of(FIELDS)
    )
    assert_same(ours, of_stock(stock, request_of(FIELDS)))


def test_text_encoders_are_changed_by_the_products(model: Model, tmp_path: Path) -> None:
    encoders = [encoder.model for encoder in model.text.encoders]
    text = {
        part: random_changes(encoder, ("q_proj", "fc1"), seed=seed)
        for seed, (part, encoder) in enumerate(zip(("text_encoder", "text_encoder_2"), encoders, strict=True))
    }
    path = write_lora(tmp_path / "text.safetensors", {}, "kohya", alpha=1.0, text=text)
    before = [{name: value.clone() for name, value in each.state_dict().items()} for each in encoders]
    with wearing(model, [read_adapter(f"{path}:0.5")], unheard):
        for encoder, old, changes in zip(encoders, before, text.values(), strict=True):
            for name, value in encoder.state_dict().items():
                down, up = changes.get(name.removesuffix(".weight"), (torch.zeros(1, 1), torch.zeros(1, 1)))
                torch.testing.assert_close(value, old[name] + 0.25 * (up @ down) if down.any() else old[name])


@pytest.mark.parametrize("style", ["peft", "kohya", "ldm"])
def test_an_sdxl_lora_on_a_student_is_what_carving_the_teacher_that_wears_it_gives(
    folder: Path, tmp_path: Path, style: str
) -> None:
    teacher = tiny_unet("tiny-sdxl", seed=3)
    plan = find("ssd-1b").on(shape_of(dict(teacher.config)))
    student = read_model("tiny", folder, choose("cpu"))
    student.denoiser.unet.load_state_dict(carve_state(teacher.state_dict(), plan))
    path = write_lora(tmp_path / "sdxl.safetensors", random_changes(teacher), style)
    told: list[str] = []
    put_on(student, [read_adapter(f"{path}:0.8")], told.append)
    peft_path = write_lora(tmp_path / "peft.safetensors", random_changes(teacher))
    teacher.load_lora_adapter(str(peft_path), prefix="unet", adapter_name="x")
    teacher.fuse_lora(lora_scale=0.8)
    teacher.unload_lora()
    for key, value in carve_state(teacher.state_dict(), plan).items():
        torch.testing.assert_close(student.denoiser.unet.state_dict()[key], value, msg=key)
    n_layers = len(random_changes(teacher))
    kept = len(random_changes(student.denoiser.unet))
    assert told == [
        f"sdxl.safetensors made for sdxl: {kept} of {n_layers} UNet layers go to the layers they became in"
        f" tiny; {n_layers - kept} belong to layers that the model lost and are dropped."
    ]


def test_what_was_put_on_is_taken_off_to_the_bit_in_half_precision_too(folder: Path, tmp_path: Path) -> None:
    model = read_model("tiny", folder, choose("cpu", "bfloat16"))
    unet = model.denoiser.unet
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    adapter = read_adapter(str(write_lora(tmp_path / "a.safetensors", random_changes(unet))))
    with pytest.raises(ZeroDivisionError), wearing(model, [adapter], unheard):
        assert not torch.equal(unet.state_dict()["mid_block.resnets.0.conv1.weight"], torch.zeros(1))
        changed = [name for name, value in unet.state_dict().items() if not torch.equal(value, before[name])]
        assert len(changed) == len(random_changes(unet))
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_a_lora_for_another_kind_of_model_is_refused_and_changes_nothing(
    model: Model, tmp_path: Path
) -> None:
    wide = tiny_unet("tiny-ssd", cross_attention_dim=24, projection_class_embeddings_input_dim=80)
    strange = write_lora(tmp_path / "sd15.safetensors", random_changes(wide, ("to_k",)))
    own = write_lora(tmp_path / "own.safetensors", random_changes(model.denoiser.unet))
    before = {name: value.clone() for name, value in model.denoiser.unet.state_dict().items()}
    changes = {f"single_blocks.{n}.linear": (torch.ones(1, 4), torch.ones(4, 1)) for n in range(3)}
    flux = write_lora(tmp_path / "flux.safetensors", changes)
    with pytest.raises(LayoutError, match=r"of its 3 UNet layers 0 fit by name and size \(single_blocks_0"):
        put_on(model, [read_adapter(str(own)), read_adapter(str(flux))], unheard)
    told: list[str] = []
    with wearing(model, [read_adapter(str(strange))], told.append):
        assert "are of another size and are dropped" in told[0]
    assert all(torch.equal(value, before[name]) for name, value in model.denoiser.unet.state_dict().items())


def test_a_student_that_keeps_nothing_of_a_lora_refuses_it(model: Model, tmp_path: Path) -> None:
    middle = {
        name: pair
        for name, pair in random_changes(tiny_unet("tiny-sdxl")).items()
        if name.startswith("mid_block.attentions")
    }
    path = write_lora(tmp_path / "middle.safetensors", middle)
    with pytest.raises(LayoutError, match="0 of 102 UNet layers"):
        put_on(model, [read_adapter(str(path))], unheard)


def test_a_file_and_its_weight_are_told_apart(tmp_path: Path) -> None:
    assert parse_adapter("a.safetensors") == (Path("a.safetensors"), None)
    assert parse_adapter("a.safetensors:0.8") == (Path("a.safetensors"), 0.8)
    assert parse_adapter("a.safetensors:-1") == (Path("a.safetensors"), -1.0)
    assert parse_adapter(r"C:\a.safetensors") == (Path(r"C:\a.safetensors"), None)
    for weight in ("nan", "inf", "101"):
        with pytest.raises(RequestError, match="weight goes from -100 to 100"):
            parse_adapter(f"a.safetensors:{weight}")


def test_openvino_cannot_wear_it_and_auto_goes_to_torch_and_says_so(folder: Path, tmp_path: Path) -> None:
    adapter = read_adapter(str(write_lora(tmp_path / "a.safetensors", random_changes(tiny_unet()))))
    with pytest.raises(RequestError, match="LoRA adapters change the weights"):
        load(str(folder), wish=wish_of("openvino"), adapters=[adapter])
    worn = load(str(folder), device="cpu", adapters=[adapter])
    assert worn.engine == "torch" and "by torch (LoRA adapters need it)" in worn.placement.reason


def test_the_request_carries_the_adapters_and_is_not_repeated_without_them(
    folder: Path, model: Model, tmp_path: Path
) -> None:
    path = write_lora(tmp_path / "ink, soft.safetensors", random_changes(model.denoiser.unet))
    with wearing(model, [read_adapter(f"{path}:0.8")], unheard) as worn:
        request = completed(Asked("a fox", seed=7), worn)[0]
    assert [(each.name, each.weight) for each in request.adapters] == [("ink, soft", 0.8)]
    saved = picture.save(picture.picture_bytes(Image.new("RGB", (64, 64)), request), tmp_path / "fox.png")
    again = picture.read_request(saved)
    assert again == request
    with pytest.raises(RequestError, match=r"the LoRA ink, soft:0.8 .* Give the same file with --lora"):
        completed(Asked("a fox"), model, like=again)
    assert read_adapter(str(path), again.adapters).weight == 0.8, (
        "the weight is the picture's, if none is said"
    )
    assert read_adapter(f"{path}:1", again.adapters).weight == 1


def test_other_programs_read_the_adapters_as_a1111_writes_them(model: Model, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "ink, <soft>.safetensors", random_changes(model.denoiser.unet))
    worn = read_adapter(f"{path}:0.8").worn()
    request = request_of({**FIELDS, "adapters": [worn.model_dump()]})
    text = parameters(request).splitlines()
    assert text[0] == "a fox <lora:ink， ＜soft＞:0.8>"
    assert f'Lora hashes: "ink， ＜soft＞: {worn.data_digest[:12]}"' in text[-1]
    a1111 = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', text[-1])
    assert dict(a1111)["Lora hashes"] == f'"ink， ＜soft＞: {worn.data_digest[:12]}"'
    saved = picture.save(picture.picture_bytes(Image.new("RGB", (64, 64)), request), tmp_path / "fox.png")
    read = ParserManager().parse(saved)
    assert [prompt.value for prompt in read.prompts] == [text[0]]
    assert next(iter(read.samplers)).parameters["seed"] == "7"
