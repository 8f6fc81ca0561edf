"""Which samples show the same picture, and which of them is kept.

Exactly the same file: the first in the order of the source is kept. The same picture in another file
(recompressed, resized): the one with the most pixels, the first of equals. Both depend on the samples alone,
never on who looked at them first. Knows ids, sizes and an 8 x 8 grid of mean colours for each sample.

Two pictures are the same if their aspect is, and if the grids differ by at most MEAN_APART on average and by
MOST_APART anywhere (in 1/255). To compare everything with everything is too much, so only those are compared
that agree in six coarse features within SLACK (means over a quarter of the grid or more, which recompressing
hardly moves). Features are quantised into cells of WIDTH, and a picture near the border of a cell stands in
both, so no pair that agrees is missed.

Legend: N samples, G the 192 bytes of a grid, F features, M entries of samples in cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MEAN_APART, MOST_APART, ASPECT_APART = 3.0, 20, 0.02
SLACK, FINE_SLACK, WIDTH = 3.0, 6.0, 12.0
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Samples:
    """What is compared: file hash (bytes strings), width and height in pixels, grid of each sample."""

    ids_N: np.ndarray
    width_N: np.ndarray
    height_N: np.ndarray
    grid_NG: np.ndarray


def exact(samples: Samples) -> np.ndarray:
    """For each sample the first with the same file (itself, if it is the first)."""
    _, first, inverse = np.unique(samples.ids_N, return_index=True, return_inverse=True)
    answer: np.ndarray = first[inverse]
    return answer


def near(samples: Samples, which: np.ndarray | None = None) -> np.ndarray:
    """For each sample (of `which`, by number) the better one of the same picture; itself, if it is kept."""
    which = np.arange(len(samples.ids_N)) if which is None else which
    n, width_N, height_N = len(which), samples.width_N[which], samples.height_N[which]
    order = np.lexsort((np.arange(n), -width_N.astype(np.int64) * height_N))
    grid_NG = samples.grid_NG[which[order]]
    aspect_N = np.log(width_N[order] / np.maximum(height_N[order], 1))
    same_as = _identical(grid_NG, aspect_N)
    left = np.flatnonzero(same_as == np.arange(n))
    grid_NG = grid_NG[left] if len(left) < n else grid_NG  # the other copy is given back: a gigabyte counts
    for better, worse in _pairs(grid_NG, aspect_N[left]):
        a, b = left[better], left[worse]
        if same_as[a] == a and same_as[b] == b:
            same_as[b] = a
    same_as = same_as[same_as]  # those identical with one that was dropped afterwards
    answer = np.empty(n, np.int64)
    answer[order] = order[same_as]
    return answer


def _identical(grid_NG: np.ndarray, aspect_N: np.ndarray) -> np.ndarray:
    """For each sample the first with the same grid and aspect: blank pages are many, and alike."""
    mix = np.random.default_rng(0).integers(0, 2**63, grid_NG.shape[1] // 8, dtype=np.uint64) | 1
    digest_N, words_NW = np.empty(len(grid_NG), np.uint64), grid_NG.view(np.uint64)
    for first in range(0, len(grid_NG), _CHUNK):
        part = slice(first, first + _CHUNK)
        digest_N[part] = (words_NW[part] * mix).sum(axis=1, dtype=np.uint64)
    _, firsts, inverse = np.unique(digest_N, return_index=True, return_inverse=True)
    answer: np.ndarray = np.arange(len(grid_NG))
    other = firsts[inverse]
    later = np.flatnonzero(other != answer)
    same = (grid_NG[later] == grid_NG[other[later]]).all(axis=1)
    same &= np.abs(aspect_N[later] - aspect_N[other[later]]) <= ASPECT_APART
    answer[later[same]] = other[later[same]]
    return answer


def _pairs(grid_NG: np.ndarray, aspect_N: np.ndarray) -> list[tuple[int, int]]:
    """All pairs (better, worse) that show the same picture, ordered by the worse one."""
    feature_NF, fine_N = _features(grid_NG)
    key_M, item_M = _cells(feature_NF)
    order = np.lexsort((fine_N[item_M], key_M))
    key_M, item_M = key_M[order], item_M[order]
    fine_M = fine_N[item_M]
    found: set[tuple[int, int]] = set()
    here, apart = np.arange(len(key_M)), 0
    while len(here):
        apart += 1
        here = here[here + apart < len(key_M)]
        there = here + apart
        close = (key_M[here] == key_M[there]) & (fine_M[there] - fine_M[here] <= FINE_SLACK)
        here, there = here[close], there[close]
        for first in range(0, len(here), _CHUNK):
            a, b = item_M[here[first : first + _CHUNK]], item_M[there[first : first + _CHUNK]]
            agree = (np.abs(feature_NF[a] - feature_NF[b]) <= SLACK).all(axis=1)
            a, b = a[agree], b[agree]
            same = _same(grid_NG, aspect_N, a, b)
            found.update(zip(np.minimum(a, b)[same].tolist(), np.maximum(a, b)[same].tolist(), strict=True))
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def _same(grid_NG: np.ndarray, aspect_N: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    apart = np.abs(grid_NG[a].astype(np.int16) - grid_NG[b])
    alike = (apart.mean(axis=1) <= MEAN_APART) & (apart.max(axis=1, initial=0) <= MOST_APART)
    same: np.ndarray = alike & (np.abs(aspect_N[a] - aspect_N[b]) <= ASPECT_APART)
    return same


def _features(grid_NG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Six coarse features of each grid, and a seventh to sort by: means over half of it or more."""
    feature_NF = np.empty((len(grid_NG), 6), np.float32)
    fine_N = np.empty(len(grid_NG), np.float32)
    for first in range(0, len(grid_NG), _CHUNK):
        part = slice(first, first + _CHUNK)
        cells = grid_NG[part].reshape(-1, 8, 8, 3).astype(np.float32)
        luma = cells.mean(axis=3)
        feature_NF[part, :3] = cells.mean(axis=(1, 2))
        feature_NF[part, 3] = luma[:, :, :4].mean(axis=(1, 2)) - luma[:, :, 4:].mean(axis=(1, 2))
        feature_NF[part, 4] = luma[:, :4].mean(axis=(1, 2)) - luma[:, 4:].mean(axis=(1, 2))
        feature_NF[part, 5] = luma[:, 2:6, 2:6].mean(axis=(1, 2)) - luma.mean(axis=(1, 2))
        fine_N[part] = luma[:, :4, :4].mean(axis=(1, 2)) + luma[:, 4:, 4:].mean(axis=(1, 2))
    return feature_NF, fine_N


def _cells(feature_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(key of a cell, sample) for every cell that a sample stands in: most in one, some in several."""
    low_NF = np.floor((feature_NF - SLACK / 2) / WIDTH).astype(np.int64) + 32
    high_NF = np.floor((feature_NF + SLACK / 2) / WIDTH).astype(np.int64) + 32
    between_NF = low_NF != high_NF
    shift_F = 6 * np.arange(feature_NF.shape[1])
    keys, items = [], []
    for mask in range(1 << feature_NF.shape[1]):
        chosen_F = (mask >> np.arange(feature_NF.shape[1]) & 1).astype(bool)
        item = np.flatnonzero(between_NF[:, chosen_F].all(axis=1))
        cell = np.where(chosen_F, high_NF[item], low_NF[item])
        keys.append((cell << shift_F).sum(axis=1))
        items.append(item)
    return np.concatenate(keys), np.concatenate(items)
