"""Our own API: jobs followed and cancelled, answered once, and still there after the server."""

from __future__ import annotations

import io
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from PIL import Image
from tests.serve.conftest import Serving, serving
from tests.serve.test_clients import wait_for

from ssd1b.generate.picture import read_request
from ssd1b.serve.jobs import Job
from ssd1b.serve.limits import Limits
from ssd1b.serve.settings import Settings
from ssd1b.serve.store import Store

WISH = {"prompt": "a fox", "width": 64, "height": 96, "steps": 3, "guidance": 3.0, "seed": 7}


def events(url: str) -> Iterator[dict[str, object]]:
    with httpx.stream("GET", url, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


def test_a_job_is_followed_from_the_queue_to_its_picture(server: Serving, tmp_path: Path) -> None:
    answer = httpx.post(f"{server.url}/v1/jobs", json=WISH | {"count": 2})
    job = answer.json()
    assert answer.status_code == 202 and answer.headers["location"] == f"/v1/jobs/{job['id']}"
    told = list(events(f"{server.url}/v1/jobs/{job['id']}/events"))
    assert told[0]["type"] == "job" and told[-1]["type"] == "done" and told[-1]["state"] == "done"
    steps = [event["step"] for event in told if event["type"] == "step"]
    assert set(steps) <= {1, 2, 3}
    first, second = told[-1]["pictures"]  # type: ignore[misc]
    assert second["request"]["seed"] == 8
    data = httpx.get(server.url + first["url"])
    assert (
        Image.open(io.BytesIO(data.content)).size == (64, 96) and "immutable" in data.headers["cache-control"]
    )
    (tmp_path / "got.png").write_bytes(data.content)
    assert read_request(tmp_path / "got.png").seed == 7
    assert [event["type"] for event in events(f"{server.url}/v1/jobs/{job['id']}/events")] == ["job", "done"]


def test_the_gallery_goes_back_in_time_and_forgets_what_it_is_told_to(server: Serving) -> None:
    for seed in (1, 2, 3):
        job = httpx.post(f"{server.url}/v1/jobs", json=WISH | {"seed": seed}).json()
        list(events(f"{server.url}/v1/jobs/{job['id']}/events"))
    newest = httpx.get(f"{server.url}/v1/pictures?limit=2").json()["pictures"]
    older = httpx.get(f"{server.url}/v1/pictures", params={"before": newest[-1]["created"]}).json()[
        "pictures"
    ]
    assert [each["request"]["seed"] for each in [*newest, *older]][:3] == [3, 2, 1]
    assert httpx.delete(server.url + newest[0]["url"]).status_code == 204
    assert httpx.get(server.url + newest[0]["url"]).status_code == 404


def test_the_same_request_sent_twice_is_made_once(server: Serving) -> None:
    key = {"idempotency-key": "twice"}
    first, second = [httpx.post(f"{server.url}/v1/jobs", json=WISH, headers=key).json() for _ in range(2)]
    assert first["id"] == second["id"]
    other = httpx.post(f"{server.url}/v1/jobs", json=WISH | {"seed": 8}, headers=key)
    assert other.status_code == 409 and other.json()["error"]["code"] == "idempotency_key_reused"


def test_a_request_sent_again_is_the_same_though_its_seed_was_left_open(server: Serving) -> None:
    open_wish = {name: value for name, value in WISH.items() if name != "seed"}
    key = {"idempotency-key": "open"}
    first, second = [httpx.post(f"{server.url}/v1/jobs", json=open_wish, headers=key) for _ in range(2)]
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]


def test_the_worker_outlives_a_disk_that_takes_nothing(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, refused = Store.finish, []

    def full(store: Store, *given: object) -> Job:
        if len(refused) < 1:
            refused.append(given)
            raise sqlite3.OperationalError("database or disk is full")
        return finish(store, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "finish", full)
    job = httpx.post(f"{server.url}/v1/jobs", json=WISH).json()
    assert [event["type"] for event in events(f"{server.url}/v1/jobs/{job['id']}/events")][-1] == "done"
    assert len(refused) == 1 and server.desk.worker.alive


@pytest.mark.parametrize("said", [False, True])
def test_the_log_has_a_line_a_job_and_prompts_only_if_asked_for(
    models: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture, said: bool
) -> None:
    caplog.set_level("INFO", "ssd1b.serve")
    with serving(Settings(tmp_path, models, log_prompts=said)) as server:
        job = httpx.post(f"{server.url}/v1/jobs", json=WISH).json()
        list(events(f"{server.url}/v1/jobs/{job['id']}/events"))
        line = wait_for_line(caplog, str(job["id"]))
    assert line["state"] == "done" and line["pictures"] == 1
    assert (line.get("prompt") == "a fox") is said and ("a fox" in caplog.text) is said


def wait_for_line(caplog: pytest.LogCaptureFixture, job: str) -> dict[str, object]:
    wait_for(lambda: job in caplog.text)
    return dict(json.loads(next(line for line in caplog.messages if job in line)))


def test_a_running_job_stops_at_its_next_step(server: Serving) -> None:
    slow = WISH | {"width": 512, "height": 512, "steps": 150}
    job = httpx.post(f"{server.url}/v1/jobs", json=slow).json()
    path = f"{server.url}/v1/jobs/{job['id']}"
    wait_for(lambda: httpx.get(path).json()["step"])
    httpx.post(f"{path}/cancel")
    assert [event["type"] for event in events(f"{path}/events")][-1] == "cancelled"
    assert httpx.get(path).json()["pictures"] == []
    assert httpx.post(f"{path}/cancel").json()["state"] == "cancelled"


def test_unknown_jobs_and_pictures_are_not_found(server: Serving) -> None:
    for path in ("/v1/jobs/x", "/v1/jobs/x/events", "/v1/pictures/..%2fjobs.sqlite", "/v1/pictures/x"):
        answer = httpx.get(server.url + path)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "not_found", path
    assert httpx.post(f"{server.url}/v1/jobs/x/cancel").status_code == 404


def test_models_take_turns_in_memory(server: Serving) -> None:
    for model in ("tiny", "other", "tiny"):
        job = httpx.post(f"{server.url}/v1/jobs", json=WISH | {"model": model}).json()
        list(events(f"{server.url}/v1/jobs/{job['id']}/events"))
        assert server.desk.residence.resident == model


def test_waiting_jobs_are_made_by_the_next_server(models: tuple[str, str], tmp_path: Path) -> None:
    slow = WISH | {"width": 512, "height": 512, "steps": 150}
    with serving(Settings(tmp_path, models)) as first:
        running = httpx.post(f"{first.url}/v1/jobs", json=slow).json()["id"]
        waiting = httpx.post(f"{first.url}/v1/jobs", json=WISH).json()["id"]
        wait_for(lambda: httpx.get(f"{first.url}/v1/jobs/{running}").json()["step"])
    with serving(Settings(tmp_path, models)) as second:
        wait_for(lambda: httpx.get(f"{second.url}/v1/jobs/{waiting}").json()["state"] == "done")
        told = httpx.get(f"{second.url}/v1/jobs/{running}").json()
        assert told["state"] == "interrupted" and "server stopped" in told["error"]


def test_a_full_queue_answers_429_and_ready_says_so(models: tuple[str, str], tmp_path: Path) -> None:
    settings = Settings(tmp_path, models, limits=Limits(waiting=1))
    with serving(settings) as small:
        slow = WISH | {"width": 512, "height": 512, "steps": 150}
        running = httpx.post(f"{small.url}/v1/jobs", json=slow).json()["id"]
        wait_for(lambda: httpx.get(f"{small.url}/v1/jobs/{running}").json()["step"])
        assert httpx.get(f"{small.url}/readyz").status_code == 200
        assert httpx.post(f"{small.url}/v1/jobs", json=WISH).status_code == 202
        full = httpx.post(f"{small.url}/v1/jobs", json=WISH)
        assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
        assert full.json()["error"]["type"] == "rate_limit_error"
        assert httpx.get(f"{small.url}/readyz").status_code == 503
        assert 'ssd1b_refused_total{reason="queue_full"} 1' in httpx.get(f"{small.url}/metrics").text


def test_sixteen_clients_at_once_get_their_own_answers(server: Serving) -> None:
    got: dict[int, tuple[int, object]] = {}

    def ask(seed: int) -> None:
        body = {"prompt": "a fox", "size": "64x64", "seed": seed, "num_inference_steps": 1}
        answer = httpx.post(f"{server.url}/v1/images/generations", json=body, timeout=120)
        got[seed] = answer.status_code, answer.json()["data"][0]["seed"]

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert got == {seed: (200, seed) for seed in range(16)}


def test_about_tells_the_page_what_it_needs(server: Serving) -> None:
    told = httpx.get(f"{server.url}/v1/about").json()
    assert [model["name"] for model in told["models"]] == ["tiny", "other"]
    assert len(told["models"][0]["aspects"]) == 9 and told["models"][0]["parameters"] > 1000
    assert "/" not in json.dumps([model["name"] for model in told["models"]])


@pytest.mark.parametrize(
    "wrong",
    [{"prompt": 3}, {}, {"prompt": "x", "steps": 0}, {"prompt": "x", "width": 65}, {"prompt": "\ud800"}],
)
def test_what_is_no_wish_is_a_400_with_one_sentence(server: Serving, wrong: dict[str, object]) -> None:
    answer = httpx.post(
        f"{server.url}/v1/jobs", content=json.dumps(wrong), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400 and len(answer.json()["error"]["message"]) < 400
