"""Captioned pictures: from a folder, archive or table to exact batches, once and checkably.

pyarrow, fsspec, ray and datasets are extras; `needed` says so before the first of them is imported.
"""

from __future__ import annotations

from importlib.util import find_spec

from ssd1b.base.errors import DataError

EXTRAS = {"pyarrow": "data", "fsspec": "data", "ray": "cluster", "datasets": "datasets"}


def needed(*packages: str) -> None:
    """Refuse, in a sentence, to go on without these packages; to be called before their first import.

    Raises:
        DataError: one of them is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise DataError(
                f"This needs the package {package}. Install it: pip install 'ssd1b[{EXTRAS[package]}]'."
            )
