"""Casts between the floating types of safetensors, and the transposition of a matrix, on raw bytes.

bfloat16 is unknown to numpy: it is the upper half of a float32, rounded to the nearest, ties to even. Knows
no files and no tensors; numpy is loaded at the first cast only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


def cast(data: bytes | memoryview, source: str, target: str) -> bytes:
    """The numbers in `data` of dtype `source` as bytes of dtype `target` (F16, BF16, F32, F64).

    Raises:
        OverflowError: a finite number does not fit into `target`; the message completes "tensor X ...".
    """
    import numpy as np

    values = _read(data, source)
    with np.errstate(over="ignore"):
        result = _to_bf16(values) if target == "BF16" else values.astype(_NUMPY[target])
    if target == "F16":
        lost = np.isfinite(values) & ~np.isfinite(result)
        if lost.any():
            raise OverflowError(f"holds {float(values[lost][0]):.6g}, which float16 cannot (65504 at most)")
    return result.tobytes()


def transpose(data: bytes, shape: tuple[int, ...], item_bytes: int) -> bytes:
    """The bytes of a matrix of shape `shape`, given those of its transpose."""
    import numpy as np

    stored = np.frombuffer(data, dtype=f"V{item_bytes}").reshape(shape[::-1])
    return np.ascontiguousarray(stored.T).tobytes()


def _read(data: bytes | memoryview, dtype: str) -> NDArray[np.floating]:
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, dtype=_NUMPY[dtype])


def _to_bf16(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Round to nearest even by adding just under half of the last place kept; NaN stays NaN."""
    import numpy as np

    bits = values.astype("<f4").view("<u4")
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    rounded[np.isnan(values)] = 0x7FC0
    return rounded
