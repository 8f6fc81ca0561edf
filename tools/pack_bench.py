"""What the committed runs of `ssd1b bench` reached of their machine's limit, for `ssd1b bench --estimate`.

    python tools/pack_bench.py

Reads docs/bench/*.json, but not the records of miniatures, and writes src/ssd1b/evaluate/speed/known.json; a
test fails where they differ.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ssd1b.base.files import write_atomic
from ssd1b.evaluate.speed.estimate import reached
from ssd1b.evaluate.speed.record import read

ROOT = Path(__file__).parent.parent
KNOWN = ROOT / "src/ssd1b/evaluate/speed/known.json"


def packed() -> str:
    """The text of known.json."""
    # Records of engines only: other measurements lie there as well.
    paths = [
        path
        for path in sorted((ROOT / "docs/bench").glob("*.json"))
        if "cases" in json.loads(path.read_text())
    ]
    runs = [read(path.read_text(), str(path)) for path in paths]
    return json.dumps({"reached": [asdict(one) for one in reached(runs)]}, indent=1) + "\n"


if __name__ == "__main__":
    write_atomic(KNOWN, packed())
