"""The queue on disk: nothing accepted is lost, nobody is starved, nothing runs twice."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssd1b.base.errors import DamagedFileError, MissingFileError
from ssd1b.generate.canvas import Canvas
from ssd1b.generate.request import Request
from ssd1b.serve.jobs import KeyReusedError, Order, QueueFullError, State, UnknownJobError
from ssd1b.serve.limits import Limits
from ssd1b.serve.store import Store

FOX = Request(
    prompt="a fox", width=64, height=64, steps=2, guidance=1.0, scheduler="euler", seed=1, model="m"
)


def order(client: str = "ann", key: str = "", seed: int = 1) -> Order:
    return Order(client, "m", [FOX.model_copy(update={"seed": seed})], key, digest=str(seed))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, Limits(waiting=6, waiting_of_client=4))


def test_a_job_goes_its_way_and_keeps_its_pictures(store: Store) -> None:
    job = store.add(order())
    assert job.state is State.WAITING and store.ahead_of(job.id) == 0
    claimed = store.claim()
    assert claimed is not None and claimed.id == job.id and claimed.state is State.RUNNING
    picture = store.keep(job.id, FOX, b"png", 1.5)
    done = store.finish(job.id, State.DONE)
    assert done.state is State.DONE and done.pictures == (picture,)
    assert store.png(picture.id) == b"png" and store.pictures() == [picture]
    store.remove(picture.id)
    assert store.pictures() == [] and not list(store.pictures_folder.iterdir())


def test_clients_take_turns(store: Store) -> None:
    for client, count in (("greedy", 3), ("ann", 2), ("bob", 1)):
        for _ in range(count):
            store.add(order(client))
    served = []
    while (job := store.claim()) is not None:
        served.append(job.order.client)
    assert served[:3] == ["greedy", "ann", "bob"] and sorted(served[3:]) == ["ann", "greedy", "greedy"]


def test_a_full_queue_turns_away_and_says_when_to_come_again(store: Store) -> None:
    for _ in range(4):
        store.add(order("ann"))
    with pytest.raises(QueueFullError, match="4 jobs of yours are waiting"):
        store.add(order("ann"))
    store.add(order("bob"))
    store.add(order("bob"))
    with pytest.raises(QueueFullError, match="6 jobs are waiting") as full:
        store.add(order("cat"), lambda waiting: 10 * waiting)
    assert full.value.retry_after_s == 60


def test_the_same_key_is_the_same_job_and_of_another_request_a_mistake(store: Store) -> None:
    first = store.add(order(key="k"))
    assert store.add(order(key="k")).id == first.id
    assert store.add(order("bob", key="k")).id != first.id
    with pytest.raises(KeyReusedError):
        store.add(order(key="k", seed=2))


def test_cancelling_is_at_once_while_waiting_and_asked_for_while_running(store: Store) -> None:
    job = store.add(order())
    assert store.cancel(job.id).state is State.CANCELLED and store.claim() is None
    store.add(order())
    running = store.claim()
    assert running is not None and not store.cancel_asked(running.id)
    assert store.cancel(running.id).state is State.RUNNING and store.cancel_asked(running.id)
    assert store.finish(running.id, State.CANCELLED).state is State.CANCELLED
    assert store.finish(running.id, State.DONE).state is State.CANCELLED


def test_after_a_kill_waiting_jobs_wait_and_the_running_one_is_interrupted(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from ssd1b.serve.store import Store
from tests.serve.test_store import order
store = Store(Path({str(tmp_path)!r}))
for seed in range(3): store.add(order(seed=seed))
store.claim()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    store = Store(tmp_path)
    (name,) = store.recover()
    assert store.job(name).state is State.INTERRUPTED and store.job(name).order.requests[0].seed == 0
    assert [job.order.requests[0].seed for job in (store.claim(), store.claim()) if job] == [1, 2]
    assert store.claim() is None and store.recover() != [name]


def test_no_two_workers_get_the_same_job(tmp_path: Path) -> None:
    store = Store(tmp_path, Limits(waiting=100, waiting_of_client=100))
    names = {store.add(order(seed=seed)).id for seed in range(40)}
    others = [Store(tmp_path), Store(tmp_path), store]
    with ThreadPoolExecutor(6) as pool:
        claimed = [job.id for job in pool.map(lambda number: others[number % 3].claim(), range(60)) if job]
    assert sorted(claimed) == sorted(names)


@pytest.mark.parametrize(
    "name", ["", "..", "../jobs.sqlite", "%2e%2e", "a/b", "a\0b", "\\\\host\\share", "no-such"]
)
def test_only_ids_of_the_gallery_lead_to_files(store: Store, name: str) -> None:
    with pytest.raises(UnknownJobError):
        store.png(name)


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40))
def test_no_text_leads_out_of_the_gallery(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    with pytest.raises((UnknownJobError, UnicodeEncodeError)):
        store.png(name)
    store.close()


def test_what_is_painted_over_stays_until_its_job_has_ended(store: Store) -> None:
    canvas = Canvas(Image.new("RGB", (8, 8), "red"), Image.new("L", (8, 8), 255))
    painted = FOX.model_copy(update=canvas.fields())
    job = store.add(replace(order(), requests=[painted], canvas=canvas))
    store.sweep()
    assert store.canvases(painted).keys() == {painted.image, painted.mask}
    store.cancel(job.id)
    store.sweep()
    with pytest.raises(MissingFileError):
        store.canvases(painted)


def test_the_oldest_pictures_give_way(tmp_path: Path) -> None:
    store = Store(tmp_path, Limits(kept_pictures=2))
    names = [store.keep("job", FOX, b"png", 1.0).id for _ in range(3)]
    assert [picture.id for picture in store.pictures()] == [names[2], names[1]]
    assert not (store.pictures_folder / f"{names[0]}.png").exists()


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").write_bytes(b"not a database, and long enough to be looked at" * 20)
    with pytest.raises(DamagedFileError, match=r"jobs\.sqlite cannot be read"):
        Store(tmp_path)
