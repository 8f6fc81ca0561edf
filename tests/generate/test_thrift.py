"""NNCF with less memory: what it makes is what it makes by itself, to the last bit."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssd1b.formats.openvino_ir import IR_FILE
from ssd1b.generate.openvino import needed, quantise
from ssd1b.generate.openvino.thrift import weights_read, weights_rounded_at_once

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def numbers(*size: int) -> np.ndarray:
    random = np.random.default_rng(sum(size))
    return (random.normal(size=size) * np.geomspace(0.1, 9, size[-1])).astype(np.float32)


CALLS = [{"pixels": numbers(1, 3, 8, 8) + each} for each in range(3)]


def network() -> Any:
    """A convolution and a product with weights in float16, then a product with weights in float32."""
    import openvino
    from openvino import opset15 as ops

    def half(*size: int) -> Any:
        return ops.convert(ops.constant(numbers(*size).astype(np.float16)), "f32")

    pixels = ops.parameter([1, 3, 8, 8], np.float32, name="pixels")
    pixels.output(0).set_names({"pixels"})
    seen = ops.convolution(pixels, half(4, 3, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])
    rows = ops.matmul(ops.relu(seen), half(8, 6), False, False)
    answer = ops.matmul(ops.relu(rows), ops.constant(numbers(5, 6)), False, True)
    return openvino.Model([answer], [pixels], "small")


def in_eight_bits(around: AbstractContextManager[None]) -> list[Any]:
    """All constants of the quantised network, in running order."""
    needed("nncf")
    import nncf

    with around:
        made = nncf.quantize(network(), nncf.Dataset(CALLS), model_type=nncf.ModelType.TRANSFORMER)
    assert [each.dtype.name for each in constants(made)].count("int8") == 3
    return constants(made)


def constants(model: Any) -> list[Any]:
    return [op.data for op in model.get_ordered_ops() if op.get_type_name() == "Constant"]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def test_a_network_whose_weights_are_read_is_quantised_to_the_last_bit_as_by_nncf_alone() -> None:
    assert same(in_eight_bits(weights_read()), in_eight_bits(nullcontext()))


def test_no_weight_is_run_inside_and_every_weight_is_run_again_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed("nncf")
    from nncf.openvino.engine import OVNativeEngine

    usual, run = OVNativeEngine.__init__, []

    def watched(self: Any, model: Any, *rest: Any) -> None:
        run.append(sum(not fed(result) for result in model.get_results()))
        usual(self, model, *rest)

    monkeypatch.setattr(OVNativeEngine, "__init__", watched)
    in_eight_bits(weights_read())
    inside = sum(run)
    in_eight_bits(nullcontext())
    assert inside == 0 and sum(run) >= 3


def fed(node: Any) -> bool:
    """Whether anything that an input says arrives here."""
    before = [node.input_value(port).get_node() for port in range(node.get_input_size())]
    return node.get_type_name() == "Parameter" or any(map(fed, before))


def test_weights_that_are_rounded_when_they_are_scaled_are_those_that_are_rounded_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed("nncf")
    import openvino
    from nncf.quantization.algorithms.smooth_quant.openvino_backend import OVSmoothQuantAlgoBackend

    openvino.save_model(network(), tmp_path / IR_FILE, compress_to_fp16=False)
    usual, kinds = OVSmoothQuantAlgoBackend.weight_update_command, []

    def watched(node: Any, graph: Any, weight: np.ndarray) -> Any:
        kinds.append(weight.dtype.name)
        return usual(node, graph, weight)

    monkeypatch.setattr(OVSmoothQuantAlgoBackend, "weight_update_command", staticmethod(watched))
    thrifty = constants(quantise.smoothed(tmp_path, CALLS))
    assert sorted(kinds) == ["float16", "float64"]
    monkeypatch.setattr(quantise, "weights_rounded_at_once", nullcontext)
    usual_way = constants(quantise.smoothed(tmp_path, CALLS))
    assert same(thrifty, usual_way) and not same(thrifty, constants(network()))
    assert "float16" not in kinds[2:]


def test_where_nncf_has_moved_its_parts_it_is_left_alone_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = in_eight_bits(nullcontext())
    import nncf.tensor

    with monkeypatch.context() as later:
        later.delattr(nncf.tensor, "Tensor")
        with pytest.warns(UserWarning, match="is built differently"):
            assert same(in_eight_bits(weights_read()), right)
    for module, around in (
        ("nncf.openvino.statistics.aggregator", weights_read),
        ("nncf.quantization.algorithms.smooth_quant.openvino_backend", weights_rounded_at_once),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.warns(UserWarning, match="is built differently"), around():
            pass
