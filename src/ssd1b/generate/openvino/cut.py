"""An exported UNet cut where its last block begins, so that its deep blocks can be left out of a call.

Works on the network as it is on disk, in floating point and in eight bits. Does not know how networks are
run.
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
