"""LoRA files: names of every style, damage, and what is no LoRA."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.formats.loras import STYLES, random_changes, write_lora
from tests.tiny import tiny_unet

from ssd1b.base.errors import DamagedFileError, LayoutError, MissingFileError
from ssd1b.formats.lora_file import read_lora
from ssd1b.formats.lora_layout import MIN_PLACED, fit_unet, plan_of
from ssd1b.plan.catalog import NAMES, find
from ssd1b.plan.shape import shape_of

SHAPE = shape_of(dict(tiny_unet().config))
Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize("style", STYLES)
def test_each_style_names_the_same_layers(style: str, tmp_path: Path) -> None:
    changes = random_changes(tiny_unet())
    fit = fit_unet(read_lora(write_lora(tmp_path / "a.safetensors", changes, style)), SHAPE)
    assert set(fit.placed) == set(changes) and not fit.dropped
    assert fit.made_for == "ssd-1b" and not fit.remapped


def test_names_of_old_attention_processors_and_of_adapters_are_understood(tmp_path: Path) -> None:
    site = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    text = "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer"
    pairs = [
        (f"unet.{site}.processor.to_out_lora.down", f"unet.{site}.processor.to_out_lora.up"),
        (f"{site}.to_q.lora_A.default", f"{site}.to_q.lora_B.default"),
        (f"{text}.down", f"{text}.up"),
    ]
    state = {f"{down}.weight": torch.zeros(2, 16) for down, _ in pairs}
    state |= {f"{up}.weight": torch.zeros(16, 2) for _, up in pairs}
    save_file(state, tmp_path / "a.safetensors")
    lora = read_lora(tmp_path / "a.safetensors")
    assert set(fit_unet(lora, SHAPE).placed) == {f"{site}.to_out.0", f"{site}.to_q"}
    assert list(lora.parts["text_encoder"]) == ["encoder_layers_0_mlp_fc1"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_alpha_is_read_in_every_precision_and_shape(dtype: torch.dtype, tmp_path: Path) -> None:
    for alpha in (torch.tensor(3.0, dtype=dtype), torch.tensor([3.0], dtype=dtype)):
        halves = {"lora_down": torch.zeros(2, 16), "lora_up": torch.zeros(16, 2)}
        name = f"lora_unet_{Q.replace('.', '_')}"
        state = {f"{name}.{side}.weight": half for side, half in halves.items()}
        save_file({**state, f"{name}.alpha": alpha}, tmp_path / "a.safetensors")
        assert read_lora(tmp_path / "a.safetensors").parts["unet"][Q.replace(".", "_")].scale == 1.5


def test_the_settings_in_the_header_scale_as_peft_does(tmp_path: Path) -> None:
    said = {"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 6}, "unet.use_rslora": True}
    lora = read_lora(
        write_lora(tmp_path / "a.safetensors", random_changes(tiny_unet(), ("to_q", "to_k")), metadata=said)
    )
    scales = {layer[-10:]: factors.scale for layer, factors in lora.parts["unet"].items()}
    assert scales["attn1_to_q"] == pytest.approx(6 / math.sqrt(2))
    assert scales["attn2_to_q"] == scales["attn1_to_k"] == pytest.approx(8 / math.sqrt(2))


def test_the_hash_is_that_of_the_bytes_behind_the_header(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", random_changes(tiny_unet(), ("to_q",)))
    data = path.read_bytes()
    behind = data[8 + int.from_bytes(data[:8], "little") :]
    lora = read_lora(path)
    assert lora.digest == hashlib.sha256(data).hexdigest()
    assert lora.data_digest == hashlib.sha256(behind).hexdigest()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"up": None}, DamagedFileError, "has only its 'down' factor"),
        ({"up": torch.zeros(16, 3)}, DamagedFileError, "have no product"),
        ({"up": torch.zeros(16, 2, dtype=torch.int32)}, DamagedFileError, "have no product"),
        ({"hada_w1_a": torch.zeros(2)}, LayoutError, "holds LoHa"),
        ({"dora_scale": torch.zeros(2)}, LayoutError, "holds DoRA"),
        ({"diff": torch.zeros(2)}, LayoutError, "holds more than LoRA: 1 tensors"),
        ({"alpha": torch.zeros(2)}, DamagedFileError, "is no number"),
        ({"down": None, "up": None, "weight": torch.zeros(2)}, LayoutError, "holds no LoRA"),
    ],
)
def test_what_is_damaged_or_no_plain_lora_is_named(
    change: dict[str, torch.Tensor | None], error: type[Exception], said: str, tmp_path: Path
) -> None:
    name = f"lora_unet_{Q.replace('.', '_')}"
    parts = {"down": torch.zeros(2, 16), "up": torch.zeros(16, 2), **change}
    keys = {"down": "lora_down.weight", "up": "lora_up.weight"}
    state = {f"{name}.{keys.get(key, key)}": value for key, value in parts.items() if value is not None}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(error, match=said):
        read_lora(tmp_path / "a.safetensors")


def test_only_content_makes_a_lora_file(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(DamagedFileError, match="pickle"):
        read_lora(tmp_path / "a.safetensors")
    with pytest.raises(MissingFileError):
        read_lora(tmp_path / "b.safetensors")
    path = write_lora(tmp_path / "c.safetensors", random_changes(tiny_unet(), ("to_q",)))
    assert load_file(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match="cut short"):
        read_lora(path)


@pytest.mark.parametrize("name", NAMES)
def test_the_plan_of_every_layout_is_found_and_keeps_enough_of_its_teachers_attention(name: str) -> None:
    plan = plan_of(find(name).shape)
    assert plan is not None and plan.shape == find(name).shape
    share = sum(plan.shape.depths.values()) / sum(plan.teacher.depths.values())
    assert share >= 2 * MIN_PLACED
