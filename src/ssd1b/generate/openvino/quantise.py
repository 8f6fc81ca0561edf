"""Eight-bit numbers for weights and activations, by NNCF, with the layers that suffer kept back.

W8A8 post-training quantisation with SmoothQuant (arXiv:2211.10438) on calls recorded from the model at hand.
Which layers stay in floating point is measured: each group of layers is computed in eight bits alone, and
those that cost most error for the work they save go first. Does not know prompts, nor where
calls come from.
"""

from __future__ import annotations

import io
import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssd1b.formats.openvino_ir import IR_FILE
from ssd1b.generate.openvino import needed
from ssd1b.generate.openvino.thrift import weights_read, weights_rounded_at_once

if TYPE_CHECKING:
    import openvino

Call = tuple[Mapping[str, np.ndarray], np.ndarray]
"""One call of a network: an array for each of its inputs, and the answer in floating point."""

MAX_ERROR = 0.03
"""Relative error of a network's answer that is aimed at when layers are kept back."""
MAX_WORK_KEPT = 0.15
"""At most this share of the multiplications is kept in floating point."""
_WORKING = ("MatMul", "Convolution")


@dataclass(frozen=True, slots=True)
class Group:
    """Layers judged together: `error` is the square of the relative error that eight bits add there."""

    name: str
    work: float
    error: float


@dataclass(frozen=True, slots=True)
class Quantised:
    """An eight-bit network, the groups it keeps back, and its relative error on calls not fitted to."""

    model: openvino.Model
    kept_back: tuple[str, ...]
    error: float


def quantised(
    part: Path,
    fit: Sequence[Call],
    check: Sequence[Call],
    kept_back: Sequence[str] | None = None,
    on_group: Callable[[int, int], None] = lambda done, total: None,
) -> Quantised:
    """Return the network in `part`, computing in eight bits.

    Args:
        part: a folder with the exported network in floating point, as `smoothed` made it.
        fit: calls to calibrate on.
        check: other calls, to measure on.
        kept_back: names of groups that stay in floating point; None: chosen by measurement.
        on_group: hears, while that is measured, how many groups of how many are done.
    """
    inputs = [inputs for inputs, _ in fit]
    kept = _free(part, check) if kept_back is None else tuple(kept_back)
    model = _quantise(part, inputs, kept)
    chosen = _chosen(model, check, on_group) if kept_back is None else ()
    if chosen:
        kept = (*kept, *chosen)
        model = _quantise(part, inputs, kept)
    return Quantised(model, kept, relative_error(model, check))


def smoothed(part: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> openvino.Model:
    """Return the network in `part` with outliers of its activations moved into its weights.

    SmoothQuant (arXiv:2211.10438); what the network answers stays the same. Apart from `quantised`, so that
    the result can be written and read again: NNCF alone does both with float32 copies of all weights.
    """
    needed("nncf")
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters
    from nncf.quantization.algorithms.pipeline import Pipeline
    from nncf.quantization.algorithms.smooth_quant.algorithm import SmoothQuant

    usual = AdvancedSmoothQuantParameters()
    alphas = {"convolution": usual.convolution, "matmul": usual.matmul}
    model = openvino.Core().read_model(part / IR_FILE)
    with _quiet(), weights_rounded_at_once():
        pipeline = Pipeline([[SmoothQuant(len(inputs), alpha_map=alphas)]])
        return pipeline.run(model, nncf.Dataset([dict(each) for each in inputs]))


def relative_error(model: openvino.Model, calls: Sequence[Call]) -> float:
    """Root of the squared error of the answers over the squares of what was wanted, all calls together."""
    import openvino

    fixed = model.clone()
    fixed.reshape({name: openvino.PartialShape(list(value.shape)) for name, value in calls[0][0].items()})
    compiled = openvino.Core().compile_model(fixed, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    missed = total = 0.0
    for inputs, wanted in calls:
        missed += float(np.square(compiled(dict(inputs))[0] - wanted).sum())
        total += float(np.square(wanted).sum())
    return math.sqrt(missed / total)


def keep_back(model: openvino.Model, groups: Iterable[str]) -> None:
    """For measuring: let the layers of these groups take their activations as they are, weights in int8."""
    back = set(groups)
    for layer in _layers(model):
        if group_of(layer.get_friendly_name()) in back and _in_eight_bits(layer):
            rounding = layer.input(0).get_source_output().get_node()
            layer.input(0).replace_source_output(rounding.input(0).get_source_output())


def group_of(layer: str) -> str:
    """The group of a layer, from its name in the traced network.

    What sees only the timestep or the text, and the first and the last layer, are groups of their own; the
    rest goes by block and kind: "up_blocks.1 ff.2".
    """
    path = layer.partition("/")[0].removeprefix("__module.").partition(".")[2]
    if re.search(r"time_emb|add_embedding", path):
        return "time"
    if re.search(r"attn2\.to_[kv]$", path):
        return "text"
    block = re.match(r"(?:decoder\.|encoder\.)?(?:(?:down|up)_blocks\.\d+|mid_block)", path)
    if block is None:
        return path
    kind = next((kind for pattern, kind in _KINDS if re.search(pattern, path)), "conv")
    return f"{block[0]} {kind}"


_KINDS = (
    (r"\.ff\.net\.0", "ff.0"),
    (r"\.ff\.net\.2", "ff.2"),
    (r"\.attn1\.", "attn1"),
    (r"\.attn2\.", "attn2"),
    (r"\.proj_(in|out)", "proj"),
)


def _free(part: Path, check: Sequence[Call]) -> tuple[str, ...]:
    """Groups that stay in floating point altogether, weights and activations: there is nothing to gain."""
    import openvino

    work = _work(openvino.Core().read_model(part / IR_FILE), check[0][0])
    return tuple(sorted(group for group, share in work.items() if share < _FREE_SHARE))


def _quantise(
    part: Path, inputs: Sequence[Mapping[str, np.ndarray]], ignored: Sequence[str]
) -> openvino.Model:
    needed("nncf")
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
    )

    alone = AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    model = openvino.Core().read_model(part / IR_FILE)
    names = [layer.get_friendly_name() for layer in _layers(model)]
    left = [name for name in names if group_of(name) in set(ignored)]
    with _quiet(), weights_read():
        return nncf.quantize(
            model,
            nncf.Dataset([dict(each) for each in inputs]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=left),
            advanced_parameters=AdvancedQuantizationParameters(
                disable_bias_correction=True, smooth_quant_alphas=alone
            ),
        )


def _chosen(
    model: openvino.Model, check: Sequence[Call], on_group: Callable[[int, int], None]
) -> tuple[str, ...]:
    """The groups whose activations are kept back as well, if there is need, as measuring shows."""
    if relative_error(model, check) <= MAX_ERROR:
        return ()
    work = _work(model, check[0][0], eight_bits=True)
    weights_only = model.clone()
    keep_back(weights_only, work)
    floor, groups = relative_error(weights_only, check) ** 2, []
    for number, group in enumerate(work, 1):
        alone = model.clone()
        keep_back(alone, [other for other in work if other != group])
        groups.append(Group(group, work[group], max(0.0, relative_error(alone, check) ** 2 - floor)))
        on_group(number, len(work))
    return worst(groups, MAX_ERROR**2 - floor, MAX_WORK_KEPT)


def worst(groups: Sequence[Group], error: float, work: float) -> tuple[str, ...]:
    """Choose groups, by error per work, until the others' errors add up to less than `error`.

    Errors of groups are taken as independent. A group that would bring the work kept over `work` is passed
    by.
    """
    left = sum(group.error for group in groups)
    kept, spent = [], 0.0
    for group in sorted(groups, key=lambda group: group.error / group.work, reverse=True):
        if left <= error:
            break
        if spent + group.work <= work:
            kept.append(group.name)
            spent, left = spent + group.work, left - group.error
    return tuple(kept)


_FREE_SHARE = 0.005
"""Groups with less than this share of the multiplications are always kept back: there is nothing to gain."""


def _work(
    model: openvino.Model, inputs: Mapping[str, np.ndarray], *, eight_bits: bool = False
) -> dict[str, float]:
    """Each group's share of the multiplications for inputs of these shapes, of all or those in int8."""
    import openvino

    fixed = model.clone()
    fixed.reshape({name: openvino.PartialShape(list(value.shape)) for name, value in inputs.items()})
    counted: dict[str, float] = defaultdict(float)
    for layer in _layers(fixed):
        if eight_bits and not _in_eight_bits(layer):
            continue
        out, weight = math.prod(layer.output(0).get_shape()), tuple(layer.input_value(1).get_shape())
        deep = math.prod(weight[1:]) if layer.get_type_name() == "Convolution" else weight[-1]
        counted[group_of(layer.get_friendly_name())] += out * deep
    total = sum(counted.values())
    return {group: share / total for group, share in counted.items()}


def _layers(model: openvino.Model) -> list[Any]:
    """The products that a quantised network may compute in eight bits, attention's own among them."""
    return [layer for layer in model.get_ordered_ops() if layer.get_type_name() in _WORKING]


def _in_eight_bits(layer: openvino.Node) -> bool:
    return bool(layer.input(0).get_source_output().get_node().get_type_name() == "FakeQuantize")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without NNCF's own bars and remarks: our progress is the only one on the screen."""
    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
