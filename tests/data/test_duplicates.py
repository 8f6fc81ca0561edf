"""Duplicates: found in whatever order, and the better one kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.made import encoded, picture

from ssd1b.data.duplicates import MEAN_APART, MOST_APART, Samples, exact, near
from ssd1b.data.pictures import look


def of(*data: bytes) -> Samples:
    """What is compared of some files."""
    seen = [look(each) for each in data]
    width, height = (np.array([each.size[side] for each in seen]) for side in (0, 1))
    grid = np.frombuffer(b"".join(each.grid for each in seen), np.uint8).reshape(len(data), -1)
    return Samples(np.array([str(hash(each)) for each in data], dtype="S32"), width, height, grid)


def test_the_first_of_equal_files_is_kept() -> None:
    one, two = encoded(picture(1)), encoded(picture(2))
    assert exact(of(two, one, two, one, one)).tolist() == [0, 1, 0, 1, 1]


def test_the_largest_of_one_picture_is_kept_wherever_it_stands() -> None:
    small, large, other = picture(3), picture(3, (256, 256)), picture(4)
    files = [
        encoded(small),
        encoded(other),
        encoded(large, "JPEG", quality=85),
        encoded(small, "WEBP", quality=60),
    ]
    assert near(of(*files)).tolist() == [2, 1, 2, 2]
    assert near(of(*files[::-1])).tolist() == [1, 1, 2, 1]


def test_the_same_colours_in_another_aspect_are_another_picture() -> None:
    assert near(of(encoded(picture(5)), encoded(picture(5, (192, 80))))).tolist() == [0, 1]


def test_blank_pages_of_one_colour_are_one_picture() -> None:
    grid = np.full((500, 192), 200, np.uint8)
    side = np.full(500, 128)
    assert set(near(Samples(np.arange(500).astype("S32"), side, side, grid)).tolist()) == {0}


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(0, 99))
def test_what_is_found_is_what_comparing_everything_with_everything_finds(n, seed) -> None:
    """Grids drawn so close together that many are near; the judge is plain: each against each."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 255, (4, 192))
    grid = np.clip(base[rng.integers(0, 4, n)] + rng.integers(-4, 5, (n, 192)), 0, 255).astype(np.uint8)
    width, height = rng.choice([100, 200], n), np.full(n, 100)
    order = sorted(range(n), key=lambda i: (-int(width[i]) * 100, i))
    kept: list[int] = []
    better = list(range(n))
    for i in order:
        for j in kept:
            apart = np.abs(grid[i].astype(int) - grid[j])
            if apart.mean() <= MEAN_APART and apart.max() <= MOST_APART and width[i] == width[j]:
                better[i] = j
                break
        else:
            kept.append(i)
    answer = near(Samples(np.arange(n).astype("S32"), width, height, grid))
    assert [i == a for i, a in enumerate(answer)] == [i == b for i, b in enumerate(better)]
