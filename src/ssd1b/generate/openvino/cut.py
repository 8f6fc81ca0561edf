"""An exported UNet cut in pieces: what sees only the text, its time embedding, and its deep blocks apart.

Keys and values of the text are the same at every step, so they are a network of their own that runs once a
picture. The deep blocks can be left out of a call; the time embedding can be computed in float32 while the
rest is in bfloat16, in which the angle of a late timestep would be wrong by a radian. Works on the network as
it is on disk, in floating point and in eight bits. Does not know how networks are run.
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
"""The input (B, T, C) that only the keys and values of the text are made from."""
TEXT_STATE = "text_state "
"""How the names begin of the outputs, or the inputs, that carry a layer's keys or values (B, T, C) of it."""

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
    """Only what is at full resolution; the deep features are an input, nothing of the text is one."""
    import openvino
    from openvino import opset15 as ops

    seam = _seam(model)
    shape = seam.get_partial_shape()
    deep = ops.parameter(openvino.PartialShape([-1, shape[1], -1, -1]), openvino.Type.f32, name=DEEP)
    deep.output(0).get_tensor().set_names({DEEP})
    seam.replace_source_output(deep.output(0))
    inputs = [port.get_node() for port in model.inputs if not _is_text(port.any_name)]
    return openvino.Model(model.get_results(), [*inputs, deep], "top")


def only_text(model: openvino.Model) -> openvino.Model:
    """Only the keys and values that the layers make of the text, each an output named after its layer."""
    import openvino

    states = _text_states(model)
    for name, state in states.items():
        state.get_tensor().set_names({name})
    inputs = [port.get_node() for port in model.inputs if port.any_name == TEXT]
    return openvino.Model(list(states.values()), inputs, "text")


def without_text(model: openvino.Model) -> openvino.Model:
    """All but the keys and values of the text, which are inputs instead of the text itself."""
    import openvino
    from openvino import opset15 as ops

    given = []
    for name, state in _text_states(model).items():
        put = ops.parameter(state.get_partial_shape(), openvino.Type.f32, name=name)
        put.output(0).get_tensor().set_names({name})
        for reader in state.get_target_inputs():
            reader.replace_source_output(put.output(0))
        given.append(put)
    inputs = [port.get_node() for port in model.inputs if port.any_name != TEXT]
    # What asks how many rows and tokens the text has finds the same numbers in what was made of it.
    for reader in next(port for port in model.inputs if port.any_name == TEXT).get_target_inputs():
        if reader.get_node().get_type_name() == "ShapeOf":
            reader.replace_source_output(given[0].output(0))
    return openvino.Model(model.get_results(), [*inputs, *given], "body")


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


def _is_text(name: str) -> bool:
    return name == TEXT or name.startswith(TEXT_STATE)


def _text_states(model: openvino.Model) -> dict[str, openvino.Output]:
    """Where the keys and values of the text come out of their layers, by name.

    Raises:
        LayoutError: there is none.
    """
    found: dict[str, Any] = {}
    for op in model.get_ordered_ops():
        layer = re.search(r"([\w.]+\.attn2\.to_[kv])/", op.get_friendly_name())
        if op.get_type_name() == "MatMul" and layer:
            found[TEXT_STATE + layer[1]] = op.output(0)
    if not found:
        raise LayoutError("This exported UNet has no layer that reads the text. Export the model again.")
    return found


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
