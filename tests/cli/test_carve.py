"""`ssd1b carve` from end to end, judged by stock diffusers, and with every fault injected."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tests.tiny import tiny_pipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ssd1b.base.files import sha256_file
from ssd1b.cli import carve as verb
from ssd1b.cli.main import main
from ssd1b.formats import hub, pipeline, safetensors_io
from ssd1b.formats.diffusers_folder import open_folder
from ssd1b.formats.safetensors_io import write_file
from ssd1b.formats.single_file import to_single_file
from ssd1b.mini import embedded
from ssd1b.plan import catalog

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("teachers") / "sdxl", "tiny-sdxl")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers") / "sharded"
    return tiny_pipeline(folder, "tiny-sdxl", variant="fp16", max_shard_size="600KB")


@pytest.fixture(scope="module")
def single_file(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teachers") / "sdxl.safetensors"
    file = to_single_file(open_folder(teacher))
    write_file(path, file.tensors, metadata=file.metadata)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A place to write to, which afterwards holds a finished folder or nothing."""
    path = tmp_path / "student"
    yield path
    assert not list(tmp_path.glob("*.part")), "half-written files were left behind"


def carve(teacher: Path | str, plan: str, out: Path, *more: str) -> int:
    return main(["carve", "--teacher", str(teacher), "--plan", plan, "--out", str(out), *more])


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on standard error, the progress bar left out, as one line."""
    said = " ".join(line for line in capsys.readouterr().err.splitlines() if "━" not in line)
    assert "Traceback" not in said
    return said


def assert_stock_diffusers_loads(folder: Path) -> None:
    """Every model loads without a key amiss."""
    parts = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    for name, kind in parts.items():
        _, info = kind.from_pretrained(folder / name, output_loading_info=True, use_safetensors=True)
        assert not any(info[fault] for fault in ("missing_keys", "unexpected_keys", "mismatched_keys")), name
        assert not info.get("error_msgs"), name


def assert_stock_diffusers_runs(folder: Path) -> None:
    """The whole pipeline loads, and takes one denoising step."""
    assert_stock_diffusers_loads(folder)
    stock = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    stock.set_progress_bar_config(disable=True)
    made = stock("a fox", height=64, width=64, num_inference_steps=1, output_type="latent").images
    assert made.shape == (1, 4, 8, 8) and torch.isfinite(made).all()


@pytest.mark.parametrize("plan", ["vega", "koala-1b", "koala-700m"])
def test_stock_diffusers_loads_the_student_with_no_key_amiss(teacher: Path, out: Path, plan: str) -> None:
    assert carve(teacher, plan, out) == 0
    assert_stock_diffusers_loads(out)
    config = json.loads((out / "unet/config.json").read_text())
    wanted = catalog.find(plan).unet_config()
    for field in ("transformer_layers_per_block", "reverse_transformer_layers_per_block", "mid_block_type"):
        assert config[field] == wanted[field]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers' scheduler
def test_stock_diffusers_takes_a_step_with_the_student(teacher: Path, out: Path) -> None:
    assert carve(teacher, "ssd-1b", out) == 0
    assert_stock_diffusers_runs(out)


def test_every_tensor_comes_from_where_the_plan_says(teacher: Path, out: Path) -> None:
    assert carve(teacher, "ssd-1b", out) == 0
    plan, old, new = catalog.find("ssd-1b"), load_file(teacher / UNET), load_file(out / UNET)
    assert len(new) == 944
    assert all(torch.equal(tensor, old[plan.teacher_key(name)]) for name, tensor in new.items())


def test_a_plan_that_keeps_everything_gives_back_identical_bytes(teacher: Path, out: Path) -> None:
    assert carve(teacher, "sdxl", out) == 0
    given = {path.relative_to(teacher): path.read_bytes() for path in teacher.rglob("*") if path.is_file()}
    found = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found.keys() - given.keys() == {Path("manifest.json")}
    for name, data in given.items():
        if name.name == "model_index.json":  # diffusers ends this one without a newline
            assert json.loads(found[name]) == json.loads(data)
        else:
            assert found[name] == data, name


def test_shards_of_a_variant_become_one_plain_file(sharded: Path, out: Path) -> None:
    assert carve(sharded, "sdxl", out) == 0
    shards = {name: t for path in sharded.glob("unet/*.safetensors") for name, t in load_file(path).items()}
    whole = load_file(out / UNET)
    assert whole.keys() == shards.keys()
    assert all(whole[name].dtype == torch.half and torch.equal(whole[name], shards[name]) for name in shards)
    assert not list(out.rglob("*fp16*"))
    assert_stock_diffusers_loads(out)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers' scheduler
def test_a_single_file_carves_to_the_same_student_as_its_folder(
    teacher: Path, single_file: Path, out: Path, tmp_path: Path
) -> None:
    assert carve(teacher, "ssd-1b", tmp_path / "from-folder") == 0
    assert carve(single_file, "ssd-1b", out, "--tokenizers", str(teacher)) == 0
    assert_stock_diffusers_runs(out)
    ours, theirs = load_file(out / UNET), load_file(tmp_path / "from-folder" / UNET)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for part in ("text_encoder", "text_encoder_2"):
        kind = CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
        models = [kind.from_pretrained(folder / part).state_dict() for folder in (out, teacher)]
        assert all(torch.equal(models[0][name], models[1][name]) for name in models[1])


def test_a_single_file_without_tokenizers_says_what_to_do(
    single_file: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    assert carve(single_file, "ssd-1b", out) == 2
    assert "--tokenizers DIR" in complaint(capsys) and not out.exists()


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.half), ("bf16", torch.bfloat16)])
def test_weights_are_cast_as_torch_casts_them(
    teacher: Path, out: Path, name: str, dtype: torch.dtype
) -> None:
    assert carve(teacher, "vega", out, "--dtype", name) == 0
    plan, old, new = catalog.find("vega"), load_file(teacher / UNET), load_file(out / UNET)
    assert all(torch.equal(t, old[plan.teacher_key(key)].to(dtype)) for key, t in new.items())
    assert next(iter(load_file(out / "text_encoder/model.safetensors").values())).dtype == dtype


def test_the_manifest_says_where_the_student_comes_from(teacher: Path, out: Path) -> None:
    assert carve(teacher, "ssd-1b", out) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    weights = list(teacher.rglob("*.safetensors"))
    assert manifest["inputs"] == {str(path): sha256_file(path) for path in weights}
    assert manifest["plan"]["name"] == "ssd-1b"
    assert manifest["plan"]["kept"]["down_blocks.2.attentions.0"] == [0, 1, 2, 6]
    assert "ssd1b" in manifest["versions"]


def test_a_plan_from_a_file_and_one_for_the_miniature_work_too(
    teacher: Path, out: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("name: thin\nteacher: sdxl\nmid: none\nkeep:\n  down_blocks.1.attentions.0: [1]\n")
    assert carve(teacher, str(plan), out) == 0
    assert_stock_diffusers_loads(out)
    assert carve(teacher, "mini-ssd", tmp_path / "mini") == 0


def test_check_writes_nothing_and_prints_every_place(
    teacher: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert carve(teacher, "ssd-1b", out, "--check") == 0
    said = capsys.readouterr().out
    assert not out.exists()
    assert "mid_block.attentions.0" in said and "6→3" in said and "944 UNet tensors" in said


def test_json_is_one_object_on_standard_output(
    teacher: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["carve", "--teacher", str(teacher), "--plan", "vega", "--check", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["plan"], record["kept_tensors"], record["out"]) == ("vega", 564, None)
    assert carve(teacher, "vega", out, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["out"], record["kind"]) == (str(out), "diffusers folder")


def test_a_hub_id_is_fetched_and_then_read_as_a_folder(
    teacher: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetch(repository: str, revision: str | None = None, **_: object) -> Path:
        asked.append((repository, revision))
        return teacher

    monkeypatch.setattr(hub, "fetch", fetch)
    assert carve("somebody/sdxl@main", "ssd-1b", out) == 0
    assert asked == [("somebody/sdxl", "main")] and (out / "unet").is_dir()


def test_an_embedded_model_is_known_by_its_name(
    teacher: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "folder", {"mini-sdxl": teacher}.__getitem__)
    assert carve("mini-sdxl", "mini-ssd", out) == 0
    assert (out / "unet").is_dir()


def test_the_call_for_programs_does_the_same(teacher: Path, out: Path) -> None:
    heard: list[tuple[int, int]] = []
    assert (
        verb.carve(teacher, catalog.find("vega"), out, lambda done, total: heard.append((done, total))) == out
    )
    assert heard[-1][0] == heard[-1][1] > 0


# Faults. Each ends with status 2, one paragraph, and nothing half-written (see the fixture `out`).


def test_a_student_is_not_carved_again(
    teacher: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert carve(teacher, "ssd-1b", tmp_path / "first") == 0
    assert carve(tmp_path / "first", "ssd-1b", out) == 2
    said = complaint(capsys)
    assert "has the layout of 'ssd-1b', and plan 'ssd-1b' is cut from 'sdxl'" in said
    assert not out.exists()


def test_stable_diffusion_1_5_is_refused(
    teacher: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(teacher, tmp_path / "sd15"))
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))
    assert carve(other, "ssd-1b", out) == 2
    assert "holds a StableDiffusionPipeline" in complaint(capsys)
    (other / "model_index.json").write_text(json.dumps(index))
    config = json.loads((other / "unet/config.json").read_text())
    config |= {"addition_embed_type": None, "use_linear_projection": False}
    (other / "unet/config.json").write_text(json.dumps(config))
    assert carve(other, "ssd-1b", out) == 2
    assert "not the config of an SDXL-family UNet" in complaint(capsys)


def test_a_missing_shard_is_refused(
    sharded: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(sharded, tmp_path / "broken"))
    lost = sorted(broken.glob("unet/*-of-*.safetensors"))[-1]
    lost.unlink()
    assert carve(broken, "ssd-1b", out) == 2
    assert lost.name in complaint(capsys) and not out.exists()


def test_a_truncated_file_is_refused(
    teacher: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(teacher, tmp_path / "broken"))
    (broken / UNET).write_bytes((teacher / UNET).read_bytes()[:-1000])
    assert carve(broken, "ssd-1b", out) == 2
    assert "is cut short" in complaint(capsys) and not out.exists()


def test_a_pickle_is_refused(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model.diffusion_model.x": torch.ones(1)}, tmp_path / "model.safetensors")
    assert carve(tmp_path / "model.safetensors", "ssd-1b", out) == 2
    assert "is a PyTorch pickle" in complaint(capsys) and not out.exists()


def test_an_output_that_is_there_is_not_touched(
    teacher: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out.mkdir()
    (out / "precious").write_text("keep me")
    assert carve(teacher, "ssd-1b", out) == 2
    assert "is there already" in complaint(capsys)
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_a_disk_that_is_known_to_be_too_small_is_refused_before_writing(
    teacher: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    assert carve(teacher, "ssd-1b", out) == 2
    assert "1 B are left on that disk" in complaint(capsys) and not out.exists()


@pytest.mark.parametrize("after_bytes", [0, 1_000_000, 3_500_000])
def test_a_disk_that_fills_up_while_writing_leaves_nothing_behind(
    teacher: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    after_bytes: int,
) -> None:
    written = 0
    real = safetensors_io.write_all

    def fills_up(file: object, chunk: bytes) -> None:
        nonlocal written
        written += len(chunk)
        if written > after_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, chunk)

    monkeypatch.setattr(safetensors_io, "write_all", fills_up)
    assert carve(teacher, "ssd-1b", out) == 2
    said = complaint(capsys)
    assert "The disk is full" in said and "Nothing half-written" in said and not out.exists()


def test_a_real_limit_of_the_system_on_file_sizes_is_named(teacher: Path, out: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY));"
        "from ssd1b.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["carve", "--teacher", str(teacher), "--plan", "ssd-1b", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "ulimit -f" in done.stderr and "Traceback" not in done.stderr
    assert not out.exists()


def test_ctrl_c_leaves_nothing_behind(teacher: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "write_part", interrupted)
    assert carve(teacher, "ssd-1b", out) == 130
    assert not out.exists()


def test_numbers_too_large_for_half_precision_are_named(
    teacher: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = Path(shutil.copytree(teacher, tmp_path / "loud"))
    state = load_file(loud / UNET)
    state["conv_in.bias"][0] = 1e6
    save_file(state, loud / UNET, metadata={"format": "pt"})
    assert carve(loud, "ssd-1b", out, "--dtype", "fp16") == 2
    assert "'conv_in.bias'" in complaint(capsys) and not out.exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--plan", "ssd1b", "--out", "x"], "Did you mean 'ssd-1b'"),
        (["--plan", "ssd-1b"], "--out DIR"),
        (["--dtype", "fp61", "--out", "x"], "Did you mean 'fp16'"),
    ],
)
def test_wrong_options_are_answered_with_a_hint(
    teacher: Path, capsys: pytest.CaptureFixture[str], words: list[str], hint: str
) -> None:
    assert main(["carve", "--teacher", str(teacher), *words]) == 2
    assert hint in complaint(capsys)


def test_carving_needs_neither_torch_nor_much_memory(teacher: Path, out: Path) -> None:
    """At true size the figure is in docs/carve.md; here it is that nothing heavy is loaded.

    The peak is the kernel's own (VmHWM): `getrusage` counts what the parent had when it was forked, too.
    """
    code = (
        "import sys; from ssd1b.cli.main import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules);"
        "peak = open('/proc/self/status').read().partition('VmHWM:')[2].split()[0];"
        "print(heavy or '', peak); sys.exit(status)"
    )
    words = ["carve", "--teacher", str(teacher), "--plan", "ssd-1b", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    peak_kib = int(done.stdout.split()[-1])
    assert done.stdout.strip() == str(peak_kib), f"loaded: {done.stdout}"
    assert peak_kib < 150_000
