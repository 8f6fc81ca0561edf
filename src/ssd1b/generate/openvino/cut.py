"""An exported UNet cut in pieces: its time embedding apart, and its deep blocks apart.

The deep blocks can be left out of a call; the time embedding can be computed in float32 while the rest is in
bfloat16, in which the angle of a late timestep would be wrong by a radian. Works on the network as it is on
disk, in floating point and in eight bits. Does not know how networks are run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ssd1b.base.errors import LayoutError

if TYPE_CHECKING:
    import openvino

DEEP = "deep"
"""The output, or the input, that carries the deep features (B, C, H, W)."""
TEXT = "encoder_hidden_states"
"""The input that only the deep blocks look at."""

LATENT = "sample"
"""The input that carries the latents (B, C, H, W)."""
TIME = "time_embedding_of_rows"
"""The output, or the input, that carries the embedding (B, C) of timestep, sizes and pooled text."""

Cut = Callable[["openvino.Model"], "openvino.Model"]


def whole(model: openvino.Model) -> openvino.Model:
    """All of it, as it is."""
    return model


def keeping_deep(model: openvino.Model) -> openvino.Model:
    """All of it, with the deep features as a second output."""
    added = model.add_outputs([_seam(model).get_source_output()])
    added[0].get_tensor().set_names({DEEP})
    return model


def from_deep(model: openvino.Model) -> openvino.Model:
    """Only what is at full resolution; the deep features are an input, the text is none."""
    import openvino
    from openvino import opset15 as ops

    seam = _seam(model)
    shape = seam.get_partial_shape()
    deep = ops.parameter(openvino.PartialShape([-1, shape[1], -1, -1]), openvino.Type.f32, name=DEEP)
    deep.output(0).get_tensor().set_names({DEEP})
    seam.replace_source_output(deep.output(0))
    inputs = [port.get_node() for port in model.inputs if port.any_name != TEXT]
    return openvino.Model(model.get_results(), [*inputs, deep], "top")


def only_time(model: openvino.Model) -> openvino.Model:
    """Only the time embedding: from timestep, sizes and pooled text to what every residual block adds.

    Of the latents, which stay an input, it sees the number of rows.
    """
    import openvino

    embedding = _time_embedding(model)
    embedding.get_tensor().set_names({TIME})
    inputs = [port.get_node() for port in model.inputs if port.any_name != TEXT]
    return openvino.Model([embedding], inputs, "time")


def without_time(model: openvino.Model) -> openvino.Model:
    """All but the time embedding, which is an input instead of what it is made from."""
    import openvino
    from openvino import opset15 as ops

    embedding = _time_embedding(model)
    given = ops.parameter(embedding.get_partial_shape(), openvino.Type.f32, name=TIME)
    given.output(0).get_tensor().set_names({TIME})
    for reader in embedding.get_target_inputs():
        reader.replace_source_output(given.output(0))
    inputs = [port.get_node() for port in model.inputs if port.any_name in (LATENT, TEXT)]
    return openvino.Model(model.get_results(), [*inputs, given], "body")


def _time_embedding(model: openvino.Model) -> openvino.Output:
    """What the activation before every residual block's projection of the time is applied to.

    Raises:
        LayoutError: there is no such place, or more than one.
    """
    found: dict[str, Any] = {}
    for op in model.get_ordered_ops():
        if op.get_type_name() == "MatMul" and "time_emb_proj" in op.get_friendly_name():
            while op.get_type_name() != "Swish" and op.get_input_size():
                op = op.input_value(0).get_node()
            if op.get_input_size():
                found[op.input_value(0).get_node().get_friendly_name()] = op.input_value(0)
    if len(found) != 1:
        raise LayoutError(
            f"This exported UNet has {len(found)} time embeddings where one was looked for; it can be run in"
            " float32 only (--dtype float32), or export the model again."
        )
    embedding: openvino.Output = next(iter(found.values()))
    return embedding


def _seam(model: openvino.Model) -> openvino.Input:
    """Where the last up block joins what comes from below with its first skip.

    Raises:
        LayoutError: there is no such place; the network was not traced from a UNet of SDXL's family.
    """
    joins: dict[int, Any] = {}
    for op in model.get_ordered_ops():
        found = re.search(r"\bup_blocks\.(\d+)[./]", op.get_friendly_name())
        if op.get_type_name() == "Concat" and found:
            joins.setdefault(int(found[1]), op)
    if not joins:
        raise LayoutError("This exported UNet has no up blocks to cut at. Export the model again.")
    seam: openvino.Input = joins[max(joins)].input(0)
    return seam
