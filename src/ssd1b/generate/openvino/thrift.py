"""NNCF made to take less memory; what it makes stays the same to the last bit.

In a network of full size the weights are what fills memory, and NNCF copies them. To find their ranges it
watches them as it watches activations: the network that it runs answers the smallest and the largest number
of each, and OpenVINO holds every weight in float32 twice, once to be watched and once packed for the
processor. In SmoothQuant it holds all scaled weights in float32 or wider until they are rounded to the file's
float16.

Both reach into NNCF 3. Where a later one has moved what is needed, there is a warning, and it does as ever.
Does not know which weights are quantised, nor how.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import openvino
    from nncf.common.graph import NNCFGraph, NNCFNode
    from nncf.common.graph.transformations.commands import TargetPoint
    from nncf.common.tensor_statistics.aggregator import StatisticsAggregator
    from nncf.common.tensor_statistics.collectors import TensorCollector
    from nncf.common.tensor_statistics.statistic_point import StatisticPointsContainer
    from nncf.openvino.graph.transformations.commands import OVWeightUpdateCommand
    from nncf.tensor import Tensor


@contextmanager
def weights_read() -> Iterator[None]:
    """Inside, ranges of weights are read from them at rest, and networks are run for activations only."""
    try:
        from nncf.openvino.statistics.aggregator import OVStatisticsAggregator as Aggregator

        usual = Aggregator.collect_statistics
    except (ImportError, AttributeError) as error:
        _warn(error)
        yield
        return

    def collect_statistics(self: StatisticsAggregator, model: openvino.Model, graph: NNCFGraph) -> None:
        every = self.statistic_points
        self.statistic_points = _unread(every, model)
        usual(self, model, graph)
        self.statistic_points = every

    Aggregator.collect_statistics = collect_statistics
    try:
        yield
    finally:
        Aggregator.collect_statistics = usual


@contextmanager
def weights_rounded_at_once() -> Iterator[None]:
    """Inside, SmoothQuant rounds each weight that it scaled when it is scaled, not all of them at the end."""
    try:
        from nncf.quantization.algorithms.smooth_quant.openvino_backend import (
            OVSmoothQuantAlgoBackend as Backend,
        )

        usual, port_of = Backend.weight_update_command, Backend.get_weight_tensor_port_id
    except (ImportError, AttributeError) as error:
        _warn(error)
        yield
        return

    def weight_update_command(node: NNCFNode, graph: NNCFGraph, weight: np.ndarray) -> OVWeightUpdateCommand:
        stored = node.layer_attributes.constant_attributes[port_of(node)].get("dtype")
        return usual(node, graph, _half(weight) if stored == "f16" else weight)

    Backend.weight_update_command = staticmethod(weight_update_command)
    try:
        yield
    finally:
        Backend.weight_update_command = staticmethod(usual)


def _half(weight: np.ndarray) -> np.ndarray:
    """In float16, and what it cannot hold as its largest number: as NNCF rounds."""
    most = float(np.finfo(np.float16).max)
    rounded: np.ndarray = np.clip(weight, -most, most).astype(np.float16)
    return rounded


def _unread(points: StatisticPointsContainer, model: openvino.Model) -> StatisticPointsContainer:
    """Feed the collectors of weights, and return the points that are left for the network to answer."""
    layers = {op.get_friendly_name(): op for op in model.get_ops()}
    left = type(points)()
    try:
        read = []
        for point in (point for those in points.values() for point in those):
            weight = _weight(layers, point.target_point)
            if weight is None:
                left.add_statistic_point(point)
                continue
            for collectors in point.algorithm_to_tensor_collectors.values():
                read += [(collector, _reduced(collector, weight)) for collector in collectors]
        for collector, inputs in read:
            collector.register_inputs(inputs)
    except (ImportError, AttributeError) as error:
        _warn(error)
        return points
    return left


def _weight(layers: Mapping[str, openvino.Node], target: TargetPoint) -> np.ndarray | None:
    """The numbers that arrive at this point, in float32; None unless they are those of a constant."""
    if not target.is_weight_target_point():
        return None
    node = layers[target.target_node_name].input_value(target.port_id).get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.data.astype(np.float32) if node.get_type_name() == "Constant" else None


def _reduced(collector: TensorCollector, weight: np.ndarray) -> dict[int, list[Tensor]]:
    """What the collector would have been fed: from the network, where it reduces, already reduced."""
    from nncf.tensor import Tensor

    whole = [Tensor(weight)]
    return {
        hash(reducer): reducer._reduce_out_of_place(whole) if reducer.inplace else whole
        for reducer in collector.reducers
    }


def _warn(error: Exception) -> None:
    warnings.warn(
        f"This version of NNCF is built differently ({error}). It is left to itself, and quantising a model"
        " of full size takes up to twice the memory.",
        stacklevel=3,
    )
