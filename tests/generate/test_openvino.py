"""The OpenVINO engine against torch on the same random weights, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import tiny_pipeline

from ssd1b.base.errors import DamagedFileError, LayoutError, MissingFileError, RequestError
from ssd1b.formats.openvino_ir import RECORD, place_of, read_record
from ssd1b.generate import openvino
from ssd1b.generate.engines import Conditioning
from ssd1b.generate.load import export_for, load, read_model, wish_of
from ssd1b.generate.model import Model
from ssd1b.generate.openvino import export as exporting
from ssd1b.generate.openvino.calibrate import psnr_db
from ssd1b.generate.openvino.cut import TEXT, only_time
from ssd1b.generate.openvino.denoiser import OpenVINODenoiser
from ssd1b.generate.openvino.engine import Network, Settings, compiled_folder
from ssd1b.generate.openvino.export import Order, export
from ssd1b.generate.openvino.load import read_export
from ssd1b.generate.openvino.quantise import Group, group_of, worst
from ssd1b.generate.pipeline import sample
from ssd1b.generate.request import Request
from ssd1b.models.device import choose

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning"),
]
FOX = Request(prompt="a fox", width=64, height=96, steps=3, guidance=5.0, scheduler="euler", seed=7)


def unheard(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD1B_CACHE", str(place))
        yield place


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model", variant="fp16")


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    depths = {
        "transformer_layers_per_block": [1, 1, 1],
        "reverse_transformer_layers_per_block": None,
        "mid_block_type": "UNetMidBlock2D",
    }
    return tiny_pipeline(tmp_path_factory.mktemp("shallow") / "model", variant="fp16", **depths)


@pytest.fixture(scope="module")
def exported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exports") / "fp16"
    export(Order(source, "tiny", "fp16"), place, ["test"], unheard)
    return place


@pytest.fixture(scope="module")
def by_torch(source: Path) -> Model:
    return read_model("tiny", source, choose("cpu"))


@pytest.fixture(scope="module")
def by_openvino(exported: Path) -> Model:
    return read_export("tiny", exported)


def relative(found: torch.Tensor, right: torch.Tensor) -> float:
    assert found.shape == right.shape
    return float((found - right).norm() / right.norm())


@pytest.mark.parametrize("rows, height, width", [(1, 8, 8), (2, 12, 10), (3, 9, 13)])
def test_the_unet_answers_as_torch_does_at_sizes_that_halve_and_sizes_that_do_not(
    by_torch: Model, by_openvino: Model, rows: int, height: int, width: int
) -> None:
    text = by_torch.text.encode(["a fox"] * rows)
    latent = torch.randn(rows, 4, height, width, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[96.0, 64, 0, 0, 96, 64]] * rows)
    cond = Conditioning(text.context_BTC, text.pooled_BC, ids)
    steps = torch.tensor([999, 500, 1])[:rows]
    with torch.inference_mode():
        right = by_torch.denoiser.predict_noise(latent, steps, cond)
    assert relative(by_openvino.denoiser.predict_noise(latent, steps, cond), right) < 1e-5


def test_text_and_autoencoder_answer_as_torch_does(by_torch: Model, by_openvino: Model) -> None:
    prompts = ["a fox, flat style", "", "🦊" * 30]
    ours, right = by_openvino.text.encode(prompts), by_torch.text.encode(prompts)
    assert relative(ours.context_BTC, right.context_BTC) < 1e-3
    assert relative(ours.pooled_BC, right.pooled_BC) < 1e-3
    pixels = torch.rand(2, 3, 64, 72) * 2 - 1
    latent = by_torch.vae.encode(pixels)
    assert relative(by_openvino.vae.encode(pixels), latent) < 1e-3
    assert relative(by_openvino.vae.decode(latent), by_torch.vae.decode(latent)) < 1e-3


def test_both_engines_draw_the_same_picture(by_torch: Model, by_openvino: Model) -> None:
    requests = [FOX, FOX.model_copy(update={"seed": 8})]
    pairs = zip(sample(by_torch, requests), sample(by_openvino, requests), strict=True)
    for right, found in pairs:
        assert psnr_db(np.asarray(found), np.asarray(right)) > 35


def cut_answers(model: Model, by_torch: Model) -> tuple[torch.Tensor, ...]:
    """Whole answer, answer beside the deep features, answer from them, and from none."""
    text = by_torch.text.encode(["a fox", ""])
    latent = torch.randn(2, 4, 12, 10, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[96.0, 64, 0, 0, 96, 64]] * 2)
    given = latent, torch.tensor([500, 500]), Conditioning(text.context_BTC, text.pooled_BC, ids)
    denoiser = model.denoiser
    assert isinstance(denoiser, OpenVINODenoiser)
    kept, deep = denoiser.predict_keeping(*given)
    again, without = (denoiser.predict_from(one, *given) for one in (deep, deep * 0))
    return denoiser.predict_noise(*given), kept, again, without


def test_an_exported_unet_can_be_cut_where_its_last_block_begins(by_torch: Model, by_openvino: Model) -> None:
    whole, kept, again, without = cut_answers(by_openvino, by_torch)
    assert relative(kept, whole) < 1e-5
    assert relative(again, whole) < 1e-5
    assert relative(without, whole) > 1e-3


def test_keys_and_values_of_the_text_are_made_once_a_text(
    by_torch: Model, by_openvino: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser, made = by_openvino.denoiser, []
    assert isinstance(denoiser, OpenVINODenoiser)
    run = Network.run

    def counting(network: Network, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        made.append(TEXT) if TEXT in inputs else None
        return run(network, inputs)

    monkeypatch.setattr(Network, "run", counting)
    latent, steps = torch.randn(1, 4, 8, 8), torch.tensor([500])
    for prompt in ("a fox", "a fox", "an owl", "a fox"):
        text = by_torch.text.encode([prompt])
        cond = Conditioning(text.context_BTC, text.pooled_BC, torch.tensor([[64.0, 64, 0, 0, 64, 64]]))
        with torch.inference_mode():
            right = by_torch.denoiser.predict_noise(latent, steps, cond)
        assert relative(denoiser.predict_noise(latent, steps, cond), right) < 1e-5
    assert len(made) == 3


def test_in_bfloat16_the_time_embedding_stays_exact(by_torch: Model, exported: Path) -> None:
    rough = read_export("tiny", exported, Settings(precision="bf16"))
    whole, kept, again, _ = cut_answers(rough, by_torch)
    exact = cut_answers(read_export("tiny", exported), by_torch)[0]
    assert [relative(each, exact) < 0.02 for each in (whole, kept, again)] == [True] * 3
    assert isinstance(rough.denoiser, OpenVINODenoiser)
    assert rough.denoiser.time.settings.precision == "f32" and rough.denoiser.time.part is only_time


def test_beside_eight_bits_the_processor_chooses_and_a_person_may(exported: Path) -> None:
    assert Settings().settled(eight_bits=False).precision == "f32"
    assert Settings().settled(eight_bits=True).precision in ("f32", "bf16")
    assert Settings(precision="f32").settled(eight_bits=True).precision == "f32"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_export_in_eight_bits_says_how_far_it_drifted_and_what_stayed_as_it_was(
    shallow: Path, tmp_path: Path
) -> None:
    order = Order(shallow, "tiny", "int8", requests=[FOX, FOX.model_copy(update={"seed": 9})], force=True)
    heard: list[str] = []
    record = export(order, tmp_path / "int8", ["test"], lambda what, done, total: heard.append(what))
    assert read_record(tmp_path / "int8") == record
    assert record.drift is not None and record.drift.pictures == 2 and 0 < record.drift.noise_error < 0.5
    assert {"unet time", "unet text"} <= set(record.kept_back)
    assert record.bytes_of["unet/openvino_model.bin"] > 0
    assert {"converting", "recording", "quantising unet", "quantising vae_decoder"} <= set(heard)
    picture = sample(read_export("tiny", tmp_path / "int8"), [FOX])[0]
    assert picture.size == (64, 96)
    whole, kept, again, _ = cut_answers(
        read_export("tiny", tmp_path / "int8"), read_model("tiny", shallow, choose("cpu"))
    )
    assert relative(kept, whole) < 1e-3
    assert relative(again, whole) < 1e-3


def test_eight_bits_that_draw_other_pictures_are_refused_and_nothing_is_left(
    shallow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MIN_PSNR_DB", 98.9)
    order = Order(shallow, "tiny", "int8", requests=[FOX], kept_back=("time", "text"))
    with pytest.raises(LayoutError, match=r"draws other pictures.*Nothing was written.*--force"):
        export(order, tmp_path / "int8", ["test"], unheard)
    assert list(tmp_path.iterdir()) == []


def test_openvino_does_not_report_home(exported: Path) -> None:
    convert = sys.modules["openvino.tools.ovc.convert_impl"]
    assert convert.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def copied(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place / "copy"))


def test_a_network_that_was_cut_short_is_named(exported: Path, tmp_path: Path) -> None:
    copy = copied(exported, tmp_path)
    weights = copy / "unet" / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(DamagedFileError, match=r"unet/openvino_model\.bin has \d+ bytes where"):
        read_export("tiny", copy)
    weights.unlink()
    with pytest.raises(MissingFileError, match=r"openvino_model\.bin is missing"):
        read_export("tiny", copy)


@pytest.mark.parametrize(
    "change, error, said",
    [
        ({"format": 2}, LayoutError, "format 2"),
        ({"precision": "int4"}, DamagedFileError, "precision"),
        ({"surprise": 1}, DamagedFileError, "surprise"),
    ],
)
def test_a_record_of_another_kind_is_refused(
    exported: Path, tmp_path: Path, change: dict[str, object], error: type[Exception], said: str
) -> None:
    copy = copied(exported, tmp_path)
    record = json.loads((copy / RECORD).read_text())
    (copy / RECORD).write_text(json.dumps(record | change))
    with pytest.raises(error, match=said):
        read_export("tiny", copy)
    (copy / RECORD).write_text("{")
    with pytest.raises(DamagedFileError, match="cannot be read"):
        read_export("tiny", copy)


def test_too_little_memory_is_said_before_anything_is_read(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000})())
    with pytest.raises(RequestError, match=r"needs about .* of memory .* are free.*int8"):
        read_export("tiny", exported)


def test_a_damaged_compiled_network_is_compiled_anew(exported: Path, by_openvino: Model) -> None:
    right = sample(by_openvino, [FOX])[0]
    blobs = list(compiled_folder().glob("*.blob"))
    assert blobs, "compiled networks are kept on disk"
    for blob in blobs:
        blob.write_bytes(blob.read_bytes()[:1000])
    again = sample(read_export("tiny", exported), [FOX])[0]
    assert psnr_db(np.asarray(again), np.asarray(right)) > 60


def test_another_version_looks_for_compiled_networks_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    here = compiled_folder()
    monkeypatch.setattr("ssd1b.generate.openvino.engine.version", lambda: "1999.1")
    assert compiled_folder() != here


def test_the_engine_is_the_fastest_that_is_there_and_says_why(source: Path, exported: Path) -> None:
    cpu = choose("cpu")
    place, why = export_for("tiny", source, cpu, wish_of())
    assert place is None and "ssd1b export tiny --to openvino" in why
    kept = place_of(source, "fp16")
    shutil.copytree(exported, kept)
    assert export_for("tiny", source, cpu, wish_of()) == (kept, "the fastest here")
    assert export_for("tiny", source, cpu, wish_of("torch")) == (None, "asked for")
    assert export_for("tiny", source, cpu, wish_of("openvino", "fp16")) == (kept, "asked for")
    assert load(str(source)).engine == "openvino fp16"
    with pytest.raises(RequestError, match="--precision int8"):
        export_for("tiny", source, cpu, wish_of("openvino", "int8"))
    (source / "unet" / "note.txt").write_text("another model now")
    assert export_for("tiny", source, cpu, wish_of())[0] is None
    (source / "unet" / "note.txt").unlink()


def test_an_export_runs_on_its_own_engine_or_not_at_all(exported: Path) -> None:
    assert load(str(exported), device="cpu").engine == "openvino fp16"
    with pytest.raises(RequestError, match="torch cannot run it"):
        load(str(exported), device="cpu", wish=wish_of("torch"))
    with pytest.raises(RequestError, match="in fp16, not in int8"):
        load(str(exported), device="cpu", wish=wish_of("openvino", "int8"))


@pytest.mark.parametrize(
    "words, said",
    [
        (("openvno", None), "Did you mean 'openvino'"),
        (("auto", "int4"), "no precision|No precision"),
        (("torch", "int8"), "--dtype"),
    ],
)
def test_a_wish_that_nobody_can_fulfil_is_refused(words: tuple[str, str | None], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        wish_of(*words)


def test_without_openvino_the_way_to_install_it_is_told(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'ssd1b\[openvino\]'"):
        wish_of("openvino")
    place, why = export_for("tiny", source, choose("cpu"), wish_of())
    assert place is None and "not installed" in why


@pytest.mark.parametrize(
    "layer, group",
    [
        ("__module.unet.conv_in/aten::_convolution/Convolution", "conv_in"),
        ("__module.unet.time_embedding.linear_1/aten::linear/MatMul", "time"),
        ("__module.unet.down_blocks.0.resnets.0.time_emb_proj/aten::linear/MatMul", "time"),
        ("__module.unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k/x", "text"),
        ("__module.unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q/x", "up_blocks.1 attn2"),
        ("__module.unet.up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2/x", "up_blocks.1 ff.2"),
        ("__module.unet.mid_block.resnets.0.conv1/x", "mid_block conv"),
        ("__module.vae.decoder.up_blocks.2.resnets.1.conv1/x", "decoder.up_blocks.2 conv"),
        ("__module.vae.post_quant_conv/x", "post_quant_conv"),
    ],
)
def test_layers_are_grouped_by_block_and_kind(layer: str, group: str) -> None:
    assert group_of(layer) == group


GROUPS = st.lists(st.builds(Group, st.uuids().map(str), st.floats(0.01, 1), st.floats(0, 1)), max_size=12)


@given(GROUPS, st.floats(0, 1), st.floats(0, 1))
def test_layers_kept_back_never_cost_more_work_than_allowed(
    groups: Sequence[Group], error: float, work: float
) -> None:
    kept = set(worst(groups, error, work))
    spent = sum(group.work for group in groups if group.name in kept)
    left = sum(group.error for group in groups if group.name not in kept)
    assert spent <= work + 1e-9
    affordable = [group for group in groups if group.name not in kept and group.work <= work - spent - 1e-9]
    assert left <= error + 1e-9 or not affordable
