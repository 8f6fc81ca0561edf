"""Ingest a folder of archives on Ray: `python -m tests.data.on_ray SOURCE OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.data import made

from ssd1b.data.cluster import Ray

if __name__ == "__main__":
    made.ingested(Path(sys.argv[1]), Path(sys.argv[2]), "webdataset", Ray("local", 2))
