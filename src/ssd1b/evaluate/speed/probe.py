"""This machine's limit: billions of operations a second in large matrix products, fp32 and int8.

    python -m ssd1b.evaluate.speed.probe THREADS

prints them as JSON. fp32 is the better of torch and OpenVINO; int8 is what OpenVINO reaches with weights and
activations of eight bits, and is left out where that is not installed. A chain of products is timed, so that
reading and writing numbers in float hardly counts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ssd1b.generate import openvino

if TYPE_CHECKING:
    import openvino as ov

SIDE, CHAIN = 2048, 6
SECONDS = 4.0


def main(arguments: list[str]) -> int:
    """Measure and print."""
    print(json.dumps(peaks(int(arguments[0]))))
    return 0


def peaks(threads: int, seconds: float = SECONDS, side: int = SIDE) -> dict[str, float]:
    """GFLOP/s by kind of number; about `seconds` for each of three products of matrices of `side`."""
    import torch

    torch.set_num_threads(threads)
    left, right = torch.randn(side, side), torch.randn(side, side)
    found = {"fp32": _rate(lambda: torch.mm(left, right), 2 * side**3, seconds)}
    if openvino.installed():
        openvino.needed()
        found["fp32"] = max(found["fp32"], _chain_rate(threads, seconds, side, eight_bits=False))
        found["int8"] = _chain_rate(threads, seconds, side, eight_bits=True)
    return found


def _chain_rate(threads: int, seconds: float, side: int, *, eight_bits: bool) -> float:
    import openvino as ov

    said = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = ov.Core().compile_model(_chain(side, eight_bits=eight_bits), "CPU", said)
    values = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    return _rate(lambda: compiled([values], share_inputs=True), CHAIN * 2 * side**3, seconds)


def _chain(side: int, *, eight_bits: bool) -> ov.Model:
    """Products one after the other, in eight bits as quantised networks have them."""
    import openvino as ov
    from openvino import opset15 as ops

    random = np.random.default_rng(0)
    start = ops.parameter(ov.PartialShape([side, side]), ov.Type.f32)
    node: ov.Node = start
    for _ in range(CHAIN):
        weight = ops.constant(random.standard_normal((side, side), dtype=np.float32) / side**0.5)
        if eight_bits:
            node = ops.fake_quantize(node, *_levels(-4.0, 4.0), levels=256)
            weight = ops.fake_quantize(weight, *_levels(-0.1, 0.1), levels=255)
        node = ops.matmul(node, weight, transpose_a=False, transpose_b=True)
    return ov.Model([node], [start], "chain")


def _levels(low: float, high: float) -> tuple[np.float32, ...]:
    return np.float32(low), np.float32(high), np.float32(low), np.float32(high)


def _rate(run: Callable[[], object], flops: int, seconds: float) -> float:
    """GFLOP/s of the fastest of as many runs as fit, after a warm one: a limit, which others may disturb."""
    run()
    laps: list[float] = []
    while sum(laps) < seconds or len(laps) < 3:
        began = time.perf_counter()
        run()
        laps.append(time.perf_counter() - began)
    return flops / min(laps) / 1e9


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
