"""Unmodified clients of others at a real server: OpenAI's, A1111's; and what Prometheus reads."""

from __future__ import annotations

import base64
import io
import threading
import time

import httpx2 as httpx
import openai
import pytest
import webuiapi
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tests.serve.conftest import Serving

from ssd1b.serve.jobs import State

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
SMALL = {"seed": 7, "num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture
def client(server: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def picture(data: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data or "")))


def test_openais_client_lists_models_and_makes_pictures(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "other"]
    made = client.images.generate(model="tiny", prompt="a fox", n=2, size="64x96", extra_body=SMALL)
    first, second = [picture(datum.b64_json) for datum in made.data or []]
    assert first.size == second.size == (64, 96) and first.tobytes() != second.tobytes()
    again = client.images.generate(model="tiny", prompt="a fox", size="64x96", extra_body=SMALL)
    assert picture((again.data or [])[0].b64_json).tobytes() == first.tobytes()


def test_partial_pictures_come_while_the_picture_forms(client: openai.OpenAI) -> None:
    extra = {**SMALL, "num_inference_steps": 8}
    events = list(
        client.images.generate(
            model="tiny", prompt="a fox", size="64x64", stream=True, partial_images=3, extra_body=extra
        )
    )
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed" and set(kinds[:-1]) <= {"image_generation.partial_image"}
    assert [event.partial_image_index for event in events[:-1]] == list(range(len(events) - 1))  # type: ignore[union-attr]
    assert {picture(event.b64_json).size for event in events} == {(64, 64)}
    whole = client.images.generate(model="tiny", prompt="a fox", size="64x64", extra_body=extra)
    assert picture(events[-1].b64_json).tobytes() == picture((whole.data or [])[0].b64_json).tobytes()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"model": "tinny"}, "no model 'tinny'"),
        ({"size": "65x64"}, "multiples of 8"),
        ({"size": "4096x4096"}, "2048 pixels"),
        ({"n": 50}, "1 to 10 pictures"),
        ({"extra_body": {"num_inference_steps": 999}}, "150 steps"),
        ({"extra_body": {"sed": 1}}, "no field 'sed'"),
        ({"extra_body": {"scheduler": "eulr"}}, "Did you mean 'euler'"),
    ],
)
def test_what_is_wrong_is_said_in_openais_words(
    client: openai.OpenAI, wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(**{"model": "tiny", "prompt": "a fox", **wrong})  # type: ignore[call-overload]
    assert said in refused.value.message and refused.value.code


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_openais_client_paints_over_a_picture_where_the_mask_is_transparent(client: openai.OpenAI) -> None:
    green = Image.new("RGB", (64, 64), (0, 200, 0))
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (32, 0, 64, 64))
    given = {"model": "tiny", "image": ("a.png", png(green)), "prompt": "a fox", "size": "64x64"}
    part = client.images.edit(**given, mask=("m.png", png(mask)), extra_body=SMALL)  # type: ignore[call-overload]
    found = picture(part.data[0].b64_json)
    assert found.crop((0, 0, 32, 64)).getcolors() == [(32 * 64, (0, 200, 0))]
    assert len(found.crop((32, 0, 64, 64)).getcolors(9999) or []) > 10
    whole = client.images.edit(**given, extra_body=SMALL | {"strength": 1.0})  # type: ignore[call-overload]
    assert picture(whole.data[0].b64_json).getpixel((0, 0)) != (0, 200, 0)
    with pytest.raises(openai.BadRequestError, match="cannot be read"):
        client.images.edit(**{**given, "image": ("a.png", b"no picture")}, extra_body=SMALL)  # type: ignore[call-overload]


def test_a_picture_that_claims_too_many_pixels_is_not_decoded(client: openai.OpenAI) -> None:
    wide = png(Image.new("1", (5000, 5000)))
    with pytest.raises(openai.BadRequestError, match="too large"):
        client.images.edit(model="tiny", image=("a.png", wide), prompt="a fox", extra_body=SMALL)


@pytest.mark.parametrize("kind, name", [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_other_formats_are_written(client: openai.OpenAI, kind: str, name: str) -> None:
    made = client.images.generate(
        model="tiny",
        prompt="a fox",
        size="64x64",
        output_format=kind,
        extra_body=SMALL,  # type: ignore[call-overload]
    )
    assert picture((made.data or [])[0].b64_json).format == name


def test_a1111s_client_makes_pictures_and_reads_them(server: Serving) -> None:
    api = webuiapi.WebUIApi(host="127.0.0.1", port=server.port)
    made = api.txt2img(prompt="an owl", negative_prompt="fog", steps=2, width=64, height=64, seed=3,
                       sampler_name="Euler a", cfg_scale=4)  # fmt: skip
    assert made.image.size == (64, 64) and made.info["seed"] == 3
    assert (
        "Negative prompt: fog" in made.info["infotexts"][0]
        and "Sampler: Euler a" in made.info["infotexts"][0]
    )
    assert "Seed: 3" in api.png_info(made.image).info
    assert {"Euler", "DPM++ 2M Karras"} <= {sampler["name"] for sampler in api.get_samplers()}
    assert api.util_get_model_names() == ["other", "tiny"]
    api.util_set_model("other")
    assert api.get_options()["sd_model_checkpoint"] == "other"
    assert api.get_progress()["progress"] == 0.0


def test_a1111s_client_paints_over_a_picture(server: Serving) -> None:
    api = webuiapi.WebUIApi(host="127.0.0.1", port=server.port)
    green, mask = Image.new("RGB", (64, 64), (0, 200, 0)), Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    made = api.img2img(prompt="an owl", images=[green], mask_image=mask, denoising_strength=1.0, steps=2,
                       width=64, height=64, seed=3)  # fmt: skip
    assert made.image.crop((0, 0, 32, 64)).getcolors() == [(32 * 64, (0, 200, 0))]
    assert made.image.getpixel((48, 32)) != (0, 200, 0)
    body = {"prompt": "x", "init_images": ["https://evil.example/a.png"]}
    answer = httpx.post(f"{server.url}/sdapi/v1/img2img", json=body)
    assert answer.status_code == 400 and "not fetched" in answer.json()["detail"]


def test_progress_answers_and_interrupt_stops_while_a_picture_is_made(server: Serving) -> None:
    api = webuiapi.WebUIApi(host="127.0.0.1", port=server.port)
    ended: list[BaseException] = []

    def draw() -> None:
        try:
            api.txt2img(prompt="an owl", steps=150, width=512, height=512, seed=3)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=draw)
    thread.start()
    seen = wait_for(lambda: api.get_progress()["progress"])
    assert 0 < seen < 1
    api.interrupt()
    thread.join(30)
    assert not thread.is_alive() and ended
    assert server.desk.store.count(State.RUNNING) == 0


def test_a_client_that_goes_away_cancels_its_job(server: Serving) -> None:
    body = {"prompt": "a fox", "size": "512x512", "num_inference_steps": 150, "seed": 11}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=1.5)
    job = next(job for job in server.desk.store.jobs() if job.order.requests[0].seed == 11)
    assert wait_for(lambda: server.desk.store.job(job.id).state is State.CANCELLED)


def test_prometheus_reads_the_metrics(server: Serving) -> None:
    text = httpx.get(f"{server.url}/metrics").text
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert found["ssd1b_pictures"].samples[0].value >= 0 and "ssd1b_jobs_waiting" in found


def wait_for(look: object, seconds: float = 30.0) -> float:
    """What `look` says as soon as it says something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()  # type: ignore[operator]
        if found:
            return float(found)
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
