"""Many clients for a while: everyone is answered exactly once, memory stays flat, nothing is lost."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from tests.serve.conftest import Serving, serving

from ssd1b.generate.load import EngineWish, load
from ssd1b.generate.picture import picture_bytes
from ssd1b.generate.pipeline import sample
from ssd1b.generate.request import Request
from ssd1b.serve.jobs import State
from ssd1b.serve.limits import Limits
from ssd1b.serve.settings import Settings

REQUESTS, CLIENTS = 500, 16


def one(server: Serving, number: int) -> str:
    """One request of one of five kinds; what became of it."""
    choice = random.Random(number)
    kind = choice.choices(["openai", "a1111", "job", "leave", "cancel"], [5, 3, 4, 2, 2])[0]
    body = {"prompt": f"scene {number}", "seed": number}
    headers = {"x-client-id": str(number % CLIENTS)}
    with httpx.Client(base_url=server.url, timeout=300, headers=headers) as client:
        if kind == "openai":
            extra = {"size": "64x64", "num_inference_steps": choice.randint(1, 4), "response_format": "url"}
            answer = client.post("/v1/images/generations", json=body | extra)
            assert [datum["seed"] for datum in answer.json()["data"]] == [number]
            return "answered"
        if kind == "a1111":
            size = {"width": 64, "height": 64, "steps": choice.randint(1, 4)}
            answer = client.post("/sdapi/v1/txt2img", json=body | size)
            assert len(answer.json()["images"]) == 1 and f'"seed": {number}' in answer.json()["info"]
            return "answered"
        if kind == "leave":
            extra = {"size": "256x256", "num_inference_steps": 100}
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/images/generations", json=body | extra, timeout=choice.uniform(0.05, 0.6))
            return "left"
        job = client.post("/v1/jobs", json=body | {"width": 64, "height": 64, "steps": 3}).json()["id"]
        if kind == "cancel":
            time.sleep(choice.uniform(0, 0.2))
            client.post(f"/v1/jobs/{job}/cancel")
        while (told := client.get(f"/v1/jobs/{job}").json())["state"] in ("waiting", "running"):
            time.sleep(0.1)
        assert told["state"] == "done" or kind == "cancel"
        return str(told["state"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_hundred_mixed_requests_of_sixteen_clients(models: tuple[str, str], tmp_path: Path) -> None:
    settings = Settings(tmp_path, models, limits=Limits(waiting=64))
    with serving(settings) as server:
        for number in range(1000, 1040):
            one(server, number)
        gc.collect()
        before = psutil.Process().memory_info().rss
        with ThreadPoolExecutor(CLIENTS) as pool:
            became = Counter(pool.map(lambda number: one(server, number), range(REQUESTS)))
        deadline = time.monotonic() + 60
        while server.desk.store.count(State.WAITING) + server.desk.store.count(State.RUNNING):
            assert time.monotonic() < deadline, "jobs are left over"
            time.sleep(0.1)
        gc.collect()
        grown = psutil.Process().memory_info().rss - before
        jobs = server.desk.store.jobs(limit=REQUESTS)
    assert sum(became.values()) == len(jobs) == REQUESTS
    seeds = Counter(job.order.requests[0].seed for job in jobs)
    assert set(seeds.values()) == {1} and set(seeds) == set(range(REQUESTS))
    assert all(len(job.pictures) == (job.state is State.DONE) for job in jobs)
    assert not any(job.state in (State.FAILED, State.INTERRUPTED) for job in jobs)
    print(f"{dict(became)}; memory grew by {grown / 1e6:.1f} MB")
    assert grown < 60e6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_the_server_adds_to_the_bare_pipeline(models: tuple[str, str], tmp_path: Path) -> None:
    """Prints a ratio, in turns; that it is small is for a person to read, a busy machine would fail it."""
    model = load("mini-ssd", wish=EngineWish("torch"))
    wanted = {"prompt": "a fox", "width": 128, "height": 128, "steps": 10, "guidance": 3.0, "seed": 1}
    request = Request(**wanted, scheduler="euler", model="mini-ssd")  # type: ignore[arg-type]
    body = {"prompt": "a fox", "size": "128x128", "num_inference_steps": 10, "guidance_scale": 3.0, "seed": 1,
            "scheduler": "euler", "response_format": "url"}  # fmt: skip
    bare, served = [], []
    with serving(Settings(tmp_path, ("mini-ssd",))) as server:
        for round_ in range(13):
            start = time.perf_counter()
            picture_bytes(sample(model, [request])[0], request)
            middle = time.perf_counter()
            answer = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=300)
            if round_:
                bare.append(middle - start)
                served.append(time.perf_counter() - middle)
            assert answer.status_code == 200
    ratio = statistics.median(served) / statistics.median(bare)
    print(
        f"bare {statistics.median(bare):.3f} s, served {statistics.median(served):.3f} s, ratio {ratio:.3f}"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_no_request_that_the_document_allows_makes_the_server_fail(server: Serving) -> None:
    import schemathesis

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @given(case=operation.as_strategy())
        @hypothesis_settings(
            max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        def check(case: schemathesis.Case) -> None:
            answer = case.call(timeout=60)
            assert answer.status_code < 500, (case.method, case.path, answer.text[:300])

        check()
