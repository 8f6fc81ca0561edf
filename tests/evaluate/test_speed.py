"""The benchmark: what it writes down, what follows from it, and that it measures at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tests.tiny import tiny_pipeline
from torch.utils.flop_counter import FlopCounterMode

from ssd1b.base.errors import DamagedFileError, RequestError
from ssd1b.base.files import cache_folder
from ssd1b.evaluate.speed import estimate, measure, peers, prepare, probe, work
from ssd1b.evaluate.speed.charts import picture_chart, step_chart
from ssd1b.evaluate.speed.measure import Plan, Subject
from ssd1b.evaluate.speed.record import Bench, Case, Timing, read
from ssd1b.formats.random_model import write_random
from ssd1b.models.encoders import load_vae
from ssd1b.models.folder import load_unet
from ssd1b.plan import catalog

PX = (512, 512)
BENCHES = Path(__file__).parents[2] / "docs" / "bench"
COMMITTED = [path for path in sorted(BENCHES.glob("*.json")) if "cases" in json.loads(path.read_text())]


def timing(*seconds: float, flops: int | None = None) -> Timing:
    return Timing(seconds, 9.0, 10**9, flops)


def case(model: str, engine: str, unet: float, px: tuple[int, int] = PX, **parts: float) -> Case:
    told: Mapping[str, float] = {"text": 0.5, "decode": 4.0, **parts}
    others = {part: timing(seconds) for part, seconds in told.items()}
    return Case(model, engine, px, {"unet": timing(unet, 2 * unet, unet, flops=10**12), **others})


BENCH = Bench(
    cases=(
        case("ssd-1b", "torch", 8.0),
        case("ssd-1b", "openvino-int8", 2.0),
        case("sdxl", "torch", 16.0),
        case("ssd-1b", "torch", 40.0, (1024, 1024)),
        case("ssd-1b", "openvino-int8", 10.0, (1024, 1024)),
    ),
    peaks={"fp32": 250.0, "int8": 1000.0},
    machine={"processor": "a <fast> one", "threads": 2},
    about={"command": "ssd1b bench", "rounds": 3, "interleaved": True},
    steps=10,
)


def test_ratios_are_named_after_what_is_faster_and_carry_other_sizes() -> None:
    ratios = BENCH.ratios
    assert ratios["ssd-1b/int8_vs_eager_unet"] == 4.0
    assert ratios["sdxl_vs_ssd-1b/eager_unet"] == 2.0
    assert ratios["ssd-1b/int8_vs_eager_unet@1024x1024"] == 4.0
    assert ratios["ssd-1b/int8_vs_eager_picture"] == round((1 + 160 + 4) / (1 + 40 + 4), 3)
    assert ratios["sdxl/eager_vs_ssd-1b/int8_picture"] > ratios["ssd-1b/int8_vs_eager_picture"]
    assert all("_picture" in name for name in ratios if "sdxl" in name and "int8" in name)


def test_a_picture_is_text_twice_each_step_twice_and_decoding() -> None:
    assert BENCH.cases[1].picture_s(10) == 2 * 0.5 + 10 * 2 * 2.0 + 4.0
    assert BENCH.cases[1].picture_s(10, rows=1) == 0.5 + 10 * 2.0 + 4.0
    assert Case("a", "b", PX, {"unet": timing(1.0)}).picture_s(10) is None


def test_eight_bit_engines_are_held_against_the_limit_of_eight_bits() -> None:
    assert BENCH.share_of_peak(BENCH.cases[0]) == pytest.approx(125 / 250)
    assert BENCH.share_of_peak(BENCH.cases[1]) == pytest.approx(500 / 1000)
    assert BENCH.share_of_peak(BENCH.cases[1], "text") is None


def test_what_is_written_is_read_back_the_same() -> None:
    assert read(BENCH.as_json(), "here").as_json() == BENCH.as_json()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 7}'])
def test_what_is_no_benchmark_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(DamagedFileError, match=r"bench\.json"):
        read(text, "bench.json")


def test_charts_are_svg_with_every_model_engine_and_number_and_escape_names() -> None:
    for chart in (step_chart(BENCH, PX), picture_chart(BENCH, PX)):
        ElementTree.fromstring(chart)
        assert all(word in chart for word in ("ssd-1b", "sdxl", "openvino-int8", "a &lt;fast&gt; one"))
    assert ">16 s<" in step_chart(BENCH, PX)
    assert picture_chart(BENCH, PX).count('class="decode"') == 3 + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


def test_engines_take_turns_and_are_timed_in_processes_of_their_own(folder: Path) -> None:
    subjects = [Subject("tiny", "torch", folder), Subject("tiny", "diffusers", folder, ("unet",))]
    heard: list[tuple[str, str, bool]] = []
    plan = Plan([(64, 64)], rounds=2, threads=1)
    cases = measure.measure(
        [subjects],
        plan,
        lambda model, part, px: work.flops_of(folder, part, px),
        lambda subject, part, cold: heard.append((subject.engine, part, cold)),
    )
    assert [each.engine for each in cases] == ["torch", "diffusers"]
    assert set(cases[0].parts) == {"text", "unet", "decode"} and set(cases[1].parts) == {"unet"}
    unet = cases[0].parts["unet"]
    assert len(unet.seconds) == 2 and unet.cold > unet.median > 0
    assert unet.peak_bytes > 50e6 and unet.flops == work.flops_of(folder, "unet", (64, 64))
    assert heard[:4] == [
        ("torch", "unet", True),
        ("diffusers", "unet", True),
        ("torch", "unet", False),
        ("diffusers", "unet", False),
    ]
    assert len(heard) == sum(len(subject.parts) for subject in subjects) * 3


def test_engines_are_loaded_side_by_side_as_far_as_memory_goes() -> None:
    sizes = {"a": 5, "b": 8, "c": 4, "d": 30}
    a, b, c, d = subjects = [Subject("m", name, Path()) for name in sizes]
    assert measure.grouped(subjects, lambda one: sizes[one.engine], 10) == [[a, c], [b], [d]]


def test_a_process_that_dies_is_named_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"torch could not run nothing .*(unet|config)"):
        plan = Plan([(64, 64)], 1, 1)
        measure.measure([[Subject("nothing", "torch", tmp_path)]], plan, lambda model, part, px: None)


def test_the_probe_finds_a_limit_for_both_kinds_of_numbers() -> None:
    peaks = probe.peaks(1, seconds=0.02, side=256)
    assert peaks["fp32"] > 1 and peaks["int8"] > 1


def test_operations_of_the_decoder_are_those_that_torch_counts(folder: Path) -> None:
    vae = load_vae(folder, device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae.decode(torch.zeros(1, 4, 8, 12))
    # On processors torch does not count the one attention in the middle.
    assert work.flops_of(folder, "decode", (96, 64)) == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert work.flops_of(folder, "text", (64, 64)) == work.flops_of(folder, "text", (96, 64)) > 0


def test_a_random_model_of_full_size_counts_as_the_published_one() -> None:
    counted = prepare.counted_of("ssd-1b")
    assert counted.flops("unet", (1024, 1024)) == pytest.approx(4.208e12, rel=0.01)
    assert counted.flops("decode", (512, 512)) == pytest.approx(2.48e12, rel=0.02)
    assert counted.memory("openvino-int8") < counted.memory("openvino-fp16")


def test_a_random_model_is_read_by_our_loader(tmp_path: Path) -> None:
    write_random(catalog.find("mini-ssd"), tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    for part in ("text_encoder", "text_encoder_2"):
        with safe_open(tmp_path / "model" / part / "model.safetensors", "pt") as file:
            assert all(name.startswith(("text_model.", "text_projection.")) for name in file.keys())  # noqa: SIM118
    unet = load_unet(tmp_path / "model", device=torch.device("cpu"), dtype=torch.float32)
    assert all(bool(torch.isfinite(value).all()) for value in unet.state_dict().values())
    # Nothing that an engine could leave out because it changes nothing.
    small = {name: value for name, value in unet.state_dict().items() if value.ndim == 1}
    assert all(bool(value.any()) and bool((value != 1).any()) for value in small.values())


def test_a_peer_that_wants_one_file_gets_the_model_in_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSD1B_CACHE", str(tmp_path))
    path = peers.single_file(folder)
    assert path.suffix == ".safetensors" and path.parent == cache_folder() / "bench"
    with safe_open(path, "pt") as file:
        assert any(name.startswith("model.diffusion_model.") for name in file.keys())  # noqa: SIM118
    assert peers.single_file(folder) == path


def test_an_estimate_is_work_over_what_was_reached_of_this_machines_limit() -> None:
    shares = [
        estimate.Reached("torch", part, share)
        for part, found in {"text": (0.5,), "unet": (0.8, 0.8, 0.4), "decode": (0.5, 0.5)}.items()
        for share in found
    ]
    tasks = estimate.picture(lambda part: {"text": 1e9, "unet": 8e9, "decode": 5e9}[part], steps=10)
    assert tasks == {"text": 2e9, "unet": 160e9, "decode": 5e9}
    guess = estimate.guess("torch", tasks, {"fp32": 100.0}, shares)
    assert guess is not None
    assert guess.seconds == pytest.approx(2 / 50 + 160 / 80 + 5 / 50)
    assert guess.factor == pytest.approx(2.0)
    assert guess.low < guess.seconds < guess.high
    assert estimate.guess("openvino-int8", tasks, {"fp32": 100.0}, shares) is None
    assert estimate.guess("torch-compile", tasks, {"fp32": 100.0}, shares) is None


def test_what_the_estimate_knows_is_what_the_committed_runs_reached() -> None:
    assert COMMITTED
    found = estimate.reached(read(path.read_text(), path.name) for path in COMMITTED)
    assert estimate.known() == found


def test_each_committed_run_still_has_the_ratios_that_its_seconds_give() -> None:
    for path in COMMITTED:
        assert json.loads(path.read_text())["ratios"] == pytest.approx(
            read(path.read_text(), "").ratios, abs=2e-3
        )


@given(limit=st.floats(1, 1e5), times=st.floats(1.1, 100))
def test_a_machine_twice_as_fast_takes_half_the_estimate(limit: float, times: float) -> None:
    shares = [estimate.Reached("torch", part, 0.5) for part in ("text", "unet", "decode")]
    tasks = {"text": 1e9, "unet": 1e12, "decode": 1e11}
    slow = estimate.guess("torch", tasks, {"fp32": limit}, shares)
    fast = estimate.guess("torch", tasks, {"fp32": limit * times}, shares)
    assert slow is not None and fast is not None
    assert slow.seconds == pytest.approx(fast.seconds * times)
    assert slow.factor == 2.0
