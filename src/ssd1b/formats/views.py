"""Tensors as byte ranges of files: renaming, cutting, joining and transposing them is arithmetic on `View`s.

Nothing is read here. Knows no file format and no models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Span:
    """A range of bytes in a file."""

    path: Path
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as it will be read: dtype (safetensors' own name), shape, and where its bytes lie.

    `transposed` says that the bytes hold the rows and columns of a matrix the other way round.
    """

    dtype: str
    shape: tuple[int, ...]
    spans: tuple[Span, ...]
    transposed: bool = False

    @property
    def n_bytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    def rows(self, start: int, stop: int) -> View:
        """Rows `start` up to `stop` of the first axis."""
        assert len(self.spans) == 1 and not self.transposed, "rows are cut from a tensor in one piece"
        row_bytes = self.n_bytes // self.shape[0]
        span = self.spans[0]
        cut = Span(span.path, span.offset + start * row_bytes, (stop - start) * row_bytes)
        return View(self.dtype, (stop - start, *self.shape[1:]), (cut,))

    def reshaped(self, *shape: int) -> View:
        """The same bytes under another shape."""
        assert math.prod(shape) == math.prod(self.shape), f"{self.shape} does not reshape to {shape}"
        return replace(self, shape=shape)

    def flipped(self) -> View:
        """The transposed matrix."""
        assert len(self.shape) == 2, f"only a matrix is transposed, not {self.shape}"
        return replace(self, shape=self.shape[::-1], transposed=not self.transposed)


def joined(views: Iterable[View]) -> View:
    """Views of one dtype joined along the first axis."""
    parts = tuple(views)
    first = parts[0]
    for part in parts:
        assert part.shape[1:] == first.shape[1:] and part.dtype == first.dtype, "only like is joined to like"
        assert not part.transposed, "transposed views are not joined"
    rows = sum(part.shape[0] for part in parts)
    return View(first.dtype, (rows, *first.shape[1:]), tuple(span for part in parts for span in part.spans))
