"""Reading and writing diffusers configs."""

from __future__ import annotations

import pytest

from ssd1b.base.errors import PlanError
from ssd1b.plan import catalog
from ssd1b.plan.shape import shape_of

# As segmind/SSD-1B publishes it, without the fields at their defaults.
SSD_1B_CONFIG = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 2,
    "mid_block_type": "UNetMidBlock2D",
    "projection_class_embeddings_input_dim": 2816,
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    "sample_size": 128,
    "transformer_layers_per_block": [1, [2, 2], [4, 4]],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}


@pytest.mark.parametrize("name", catalog.NAMES)
def test_a_shape_survives_its_config(name: str) -> None:
    shape = catalog.find(name).shape
    assert shape_of(shape.config()) == shape


def test_the_published_config_of_ssd_1b_has_the_shape_of_its_plan() -> None:
    assert shape_of(SSD_1B_CONFIG) == catalog.find("ssd-1b").shape


def test_depths_as_a_single_number_mean_every_block() -> None:
    config = {**catalog.SDXL.config(), "transformer_layers_per_block": 3}
    shape = shape_of(config)
    assert shape.down_depths == ((), (3, 3), (3, 3))
    assert shape.mid_depth == 3
    assert shape.up_depths == ((3, 3, 3), (3, 3, 3), ())


def test_heads_may_be_given_under_their_right_name() -> None:
    config = catalog.SDXL.config()
    config["num_attention_heads"] = config.pop("attention_head_dim")
    assert shape_of(config) == catalog.SDXL


def test_sdxl_has_70_transformer_blocks_and_17_residual_blocks() -> None:
    shape = catalog.SDXL
    assert shape.transformer_blocks == 70
    assert sum(map(shape.resnets, shape.blocks)) == 17
    assert len(shape.depths) == 11


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block_out_channels", None),
        ("block_out_channels", "wide"),
        ("addition_embed_type", "text"),
        ("use_linear_projection", False),
        ("layers_per_block", [1, 2, 2]),
        ("layers_per_block", [2, 2]),
        ("down_block_types", ["DownBlock2D"]),
        ("down_block_types", ["DownBlock2D", "DownBlock2D", "SimpleCrossAttnDownBlock2D"]),
        ("up_block_types", ["CrossAttnUpBlock2D"] * 3),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("transformer_layers_per_block", [1, 2]),
        ("transformer_layers_per_block", [1, [2], [10, 10]]),
        ("cross_attention_dim", "2048"),
    ],
)
def test_another_architecture_is_refused_by_the_field_that_gives_it_away(field: str, value: object) -> None:
    with pytest.raises(PlanError, match=field):
        shape_of({**catalog.SDXL.config(), field: value})
