"""Fetching from a hub: against a server on this machine that speaks the hub's HTTP interface."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
from tests.formats.hub_server import COMMIT, Hub, serve
from tests.tiny import tiny_pipeline, tiny_stock

from ssd1b.base.errors import DamagedFileError, HubError
from ssd1b.formats import hub
from ssd1b.formats.hub_files import chosen, refuse_strange_parts
from ssd1b.generate.load import load

UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as SSD-1B's is: plain and fp16 weights, a single file, pickles and pages beside them."""
    folder = tiny_pipeline(tmp_path_factory.mktemp("hub") / "repo")
    half = tiny_pipeline(tmp_path_factory.mktemp("hub") / "half", variant="fp16")
    for path in half.rglob("*.safetensors"):
        shutil.copy(path, folder / path.relative_to(half))
    for name in ("README.md", "SSD-1B.safetensors", "unet/diffusion_pytorch_model.bin", "pipeline.py"):
        (folder / name).write_bytes(b"not to be fetched")
    return folder


@pytest.fixture
def server(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(Hub({"segmind/tiny": published})) as running:
        point_at(running.url, monkeypatch)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
        monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda _: None)
        yield running


@pytest.fixture
def repo(published: Path, tmp_path: Path, server: Hub) -> Path:
    """A second repository, free to be spoilt."""
    folder = shutil.copytree(published, tmp_path / "repo")
    server.repositories["someone/else"] = folder
    return folder


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does when huggingface_hub is imported."""
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)


def fetched(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_exactly_what_pictures_need_is_fetched_in_half_precision(server: Hub) -> None:
    names = fetched(hub.fetch("segmind/tiny"))
    assert {name for name in names if name.endswith(".safetensors")} == {
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/model.fp16.safetensors",
        UNET,
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }
    assert "model_index.json" in names and "tokenizer_2/tokenizer_config.json" in names
    assert not any(name.endswith((".bin", ".py", ".md")) for name in names)


def test_a_fetched_model_draws(server: Hub) -> None:
    from ssd1b.generate.asked import Asked, completed
    from ssd1b.generate.pipeline import sample

    model = load("segmind/tiny", device="cpu")
    requests = completed(Asked("a fox", size="64x64", steps=1, seed=1), model)
    assert sample(model, requests)[0].size == (64, 64)


def test_a_second_fetch_downloads_nothing(server: Hub) -> None:
    first = hub.fetch("segmind/tiny")
    server.asked.clear()
    assert hub.fetch("segmind/tiny") == first
    assert server.paths() == ["/api/models/segmind/tiny/revision/main"]


def test_a_pinned_commit_that_is_cached_needs_no_network_at_all(server: Hub) -> None:
    first = hub.fetch("segmind/tiny", COMMIT)
    server.asked.clear()
    assert hub.fetch("segmind/tiny", COMMIT) == first == hub.fetch(*hub.split_id(f"segmind/tiny@{COMMIT}"))
    assert server.asked == []


def test_progress_counts_every_byte_and_says_what_comes(server: Hub) -> None:
    heard: list[tuple[int, int]] = []
    notes: list[str] = []
    hub.fetch("segmind/tiny", listener=hub.Listener(notes.append, lambda *counted: heard.append(counted)))
    assert notes[0].startswith("Fetching segmind/tiny (01234567)")
    assert heard[-1][0] == heard[-1][1]
    assert heard == sorted(heard)


def test_a_connection_that_breaks_is_taken_up_where_it_stopped(server: Hub, published: Path) -> None:
    server.cut_after, server.cuts = 1_000_000, 1
    folder = hub.fetch("segmind/tiny")
    assert (folder / UNET).read_bytes() == (published / UNET).read_bytes()
    ranges = [headers["range"] for way, _, headers in server.asked if way == "GET" and "range" in headers]
    assert len(ranges) == 1


def test_a_download_that_was_interrupted_goes_on_in_the_next_run(server: Hub, published: Path) -> None:
    server.cut_after, server.cuts = 1_500_000, 1

    def interrupt(done: int, total: int) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.fetch("segmind/tiny", listener=hub.Listener(on_bytes=interrupt))
    server.asked.clear()
    folder = hub.fetch("segmind/tiny")
    assert (folder / UNET).read_bytes() == (published / UNET).read_bytes()
    ranges = [h["range"] for way, path, h in server.asked if way == "GET" and path.endswith(UNET)]
    assert len(ranges) == 1 and int(ranges[0].removeprefix("bytes=").rstrip("-")) > 0


def test_an_interrupted_download_is_not_taken_for_a_model(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.fetch("segmind/tiny", listener=hub.Listener(on_bytes=interrupt))
    go_offline(monkeypatch)
    for revision in (None, COMMIT):
        with pytest.raises(HubError, match="not \\(completely\\) in the cache"):
            hub.fetch("segmind/tiny", revision)


def test_a_file_that_arrives_altered_is_refused_and_fetched_again(server: Hub) -> None:
    server.broken.add(f"segmind/tiny/{UNET}")
    with pytest.raises(DamagedFileError, match="SHA-256"):
        hub.fetch("segmind/tiny")
    server.broken.clear()
    assert hub.fetch("segmind/tiny").is_dir()


def test_the_token_goes_to_the_hub_and_not_to_its_storage(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_madeup")
    hub.fetch("segmind/tiny")
    with_token = {path.split("/")[1] for _, path, headers in server.asked if "authorization" in headers}
    assert with_token == {"api", "segmind"}
    assert "storage" in {path.split("/")[1] for path in server.paths()}


def test_offline_with_a_copy_uses_it(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = hub.fetch("segmind/tiny")
    server.asked.clear()
    go_offline(monkeypatch)
    assert hub.fetch("segmind/tiny") == first
    assert server.asked == []


def test_offline_without_a_copy_says_what_to_do(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)
    with pytest.raises(HubError, match="offline mode is on \\(HF_HUB_OFFLINE\\)"):
        hub.fetch("segmind/tiny")


def test_a_hub_that_does_not_answer_is_replaced_by_the_copy_with_a_note(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hub.fetch("segmind/tiny")
    point_at("http://127.0.0.1:9", monkeypatch)
    notes: list[str] = []
    assert hub.fetch("segmind/tiny", listener=hub.Listener(notes.append)) == first
    assert notes[0].startswith("Using the cached copy of segmind/tiny (01234567)")
    with pytest.raises(HubError, match="does not answer as it should"):
        hub.fetch("segmind/other")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("segmind/missing", "There is no model 'segmind/missing'"),
        ("segmind/tiny@v9", "has no revision 'v9'"),
        ("someone/gated", "is gated"),
        ("segmind/tiny@../../x", "is not a hub id"),
        ("../x", "is not a hub id"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_paragraph(server: Hub, name: str, said: str) -> None:
    server.gated.add("someone/gated")
    with pytest.raises(HubError, match=said) as error:
        hub.fetch(*hub.split_id(name))
    assert "\n" not in str(error.value)


def test_a_repository_with_pickles_only_is_refused_before_any_weight_is_fetched(
    server: Hub, repo: Path
) -> None:
    for path in repo.glob("unet/*.safetensors"):
        path.unlink()
    with pytest.raises(HubError, match="only as a pickle"):
        hub.fetch("someone/else")
    assert not any("storage" in path for path in server.paths())


def test_a_pipeline_of_unknown_classes_is_refused_before_any_weight_is_fetched(
    server: Hub, repo: Path
) -> None:
    index = json.loads((repo / "model_index.json").read_text())
    index["unet"] = ["my_code", "UNet2DConditionModel"]
    (repo / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(HubError, match=r"'my_code\.UNet2DConditionModel' as its 'unet'"):
        hub.fetch("someone/else")
    assert not any("storage" in path for path in server.paths())


def test_tokenizers_alone_can_be_fetched(server: Hub) -> None:
    names = fetched(hub.fetch_tokenizers("segmind/tiny"))
    assert {name.split("/")[0] for name in names} == {"tokenizer", "tokenizer_2"}


@pytest.mark.parametrize(
    "change",
    [
        {"_class_name": "StableDiffusionPipeline"},
        {"_class_name": ["StableDiffusionXLPipeline", "x"]},
        {"unet": ["diffusers", "os.system"]},
        {"unet": ["builtins", "UNet2DConditionModel"]},
        {"scheduler": ["diffusers", "../../evil"]},
        {"prior": ["diffusers", "UNet2DConditionModel"]},
        {"vae": ["diffusers"]},
        {"safety_checker": ["pipeline", "Checker"]},
    ],
)
def test_an_index_that_names_strange_code_is_refused(change: dict[str, object]) -> None:
    index = dict(tiny_stock().config)
    refuse_strange_parts("a/b", {**index, "_class_name": "StableDiffusionXLPipeline"})
    with pytest.raises(HubError):
        refuse_strange_parts("a/b", {**index, "_class_name": "StableDiffusionXLPipeline", **change})


def test_only_names_on_the_list_are_chosen_wherever_they_point() -> None:
    small = ["model_index.json", "scheduler/scheduler_config.json"]
    tokens = [f"{part}/vocab.json" for part in ("tokenizer", "tokenizer_2")]
    shards = [f"unet/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    weights = ["vae/diffusion_pytorch_model.safetensors", *shards]
    weights += ["text_encoder/model.safetensors", "text_encoder_2/model.safetensors"]
    index = ["unet/diffusion_pytorch_model.safetensors.index.json"]
    wanted = {*small, *tokens, *weights, *index}
    strange = [
        "../model_index.json",
        "unet/../../x.safetensors",
        "/etc/passwd",
        "unet/model.safetensors.py",
        "unet/evil.safetensors",
        "tokenizer/tokenizer.py",
        "unet/sub/model.safetensors",
        "unet/model.safetensors\nx",
    ]
    assert set(chosen("a/b", [*wanted, *strange])) == wanted


def test_a_repository_without_a_pipeline_is_refused() -> None:
    with pytest.raises(HubError, match="not a diffusers pipeline"):
        chosen("a/b", ["model.safetensors"])
    with pytest.raises(HubError, match="no weights for its 'unet'"):
        chosen("a/b", ["model_index.json"])
