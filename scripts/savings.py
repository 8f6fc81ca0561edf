"""What each way of leaving work out saves on mini-ssd, and what it costs; the record behind docs/engines.md.

    python scripts/savings.py scores --prompts 560
    python scripts/savings.py times
    python scripts/savings.py table

Scores are the scene reader's; pictures that `ssd1b evaluate` knows are not made again, so the same command
goes on where it was stopped. Times are of whole pictures, all settings in turns; the pictures that are timed
are also compared. Both write their part of docs/bench/mini-savings.json; `table` prints it in Markdown.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ssd1b.base.files import versions, write_atomic
from ssd1b.cli import show
from ssd1b.cli.bench import machine
from ssd1b.cli.evaluate import load_miniature, record
from ssd1b.evaluate import judging, savings
from ssd1b.evaluate.prompts import TOTAL, prompts, showcase
from ssd1b.generate.model import Model
from ssd1b.generate.request import Request
from ssd1b.mini.embedded import DECODERS

MODEL = "mini-ssd"
OUT = Path(__file__).parents[1] / "docs/bench/mini-savings.json"
KEPT = ("overall", "prompts", "scores", "intervals")


def main() -> None:
    """Read the command line, measure one part, write it beside the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("scores", "times", "table"))
    parser.add_argument("--prompts", type=int, default=TOTAL, help="of scores")
    parser.add_argument("--only", action="append", help="score only this setting; again for more")
    parser.add_argument("--rounds", type=int, default=12, help="of times, after one that is not counted")
    parser.add_argument("--batches", type=int, default=4, help="of one prompt, after one that is not counted")
    parser.add_argument(
        "--engine", action="append", help="torch, openvino-int8, openvino-fp16; again for more"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    found = json.loads(given.out.read_text()) if given.out.is_file() else {"scores": {}, "pictures": {}}
    engines = given.engine or ["torch"]
    if given.what == "scores":
        for setting in savings.SETTINGS:
            if not given.only or setting.name in given.only:
                found["scores"].setdefault("torch", {})[setting.name] = score(setting, given.prompts)
                found["scored"] = about()
                write(given.out, found)
    elif given.what == "times":
        found |= times(engines, given.rounds, given.batches)
        write(given.out, found)
    print(savings.markdown(found) if found["pictures"] else "not timed yet")


def score(setting: savings.Setting, n_prompts: int) -> dict[str, object]:
    """The scene reader's verdict on one setting, on torch."""
    model = loaded("torch", tiny=setting.tiny)
    told = replace(
        judging.settings_of(model, None, None), guidance_until=setting.guidance_until, reuse=setting.reuse
    )
    examiner, asked = judging.scene_reader(), prompts(n_prompts)
    with show.counting(setting.name, len(asked), "pictures") as done:
        answers = judging.judge_model(model, examiner, asked, told, done)
    known = record(model, examiner, answers, told)
    return {key: known[key] for key in KEPT}


def times(engines: Sequence[str], rounds: int, batches: int) -> dict[str, Any]:
    """Seconds and PSNR of every setting on every engine, and of batches on torch."""
    pictures, ways = {}, {}
    for engine in engines:
        model, tiny = loaded(engine), loaded(engine, tiny=True)
        asked = requests(model, rounds + 1)
        with show.counting(engine, len(asked) * len(savings.SETTINGS), "pictures") as done:
            pictures[engine] = savings.measure(model, tiny, asked, on_done=done)
    model = loaded("torch")
    many = [
        [one.model_copy(update={"seed": one.seed % 2**32 + n}) for n in range(savings.BATCH)]
        for one in requests(model, batches + 1)
    ]
    with show.counting("batches", len(many) * len(savings.WAYS) * savings.BATCH, "pictures") as done:
        ways = savings.measure_batches(model, many, done)
    first = many[0][0]
    return {
        **about(),
        "machine": machine(torch.get_num_threads()),
        "model": MODEL,
        "request": {
            key: getattr(first, key) for key in ("width", "height", "steps", "guidance", "scheduler")
        },
        "rounds": rounds,
        "interleaved": True,
        "pictures": {
            engine: {name: laps.told() for name, laps in found.items()} for engine, found in pictures.items()
        },
        "batch": {name: laps.told() for name, laps in ways.items()},
        "ratios": savings.ratios(MODEL, pictures, ways),
    }


def loaded(engine: str, *, tiny: bool = False) -> Model:
    """The model on "torch", or "openvino-int8" and "openvino-fp16" where it was exported."""
    name, _, precision = engine.partition("-")
    return load_miniature(MODEL, "cpu", name, precision or None, Path(DECODERS[0]) if tiny else None)


def requests(model: Model, count: int) -> list[Request]:
    """Square pictures of every kind of prompt, another each time."""
    told = judging.settings_of(model, None, None)
    return [judging.request_of_prompt(model, prompt, told) for prompt in showcase(prompts(), count)]


def about() -> dict[str, object]:
    """Command, commit, date and versions: without them a figure is worth nothing."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": shlex.join(["python", "scripts/savings.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {**versions(), "openvino": version("openvino")},
    }


def write(out: Path, found: dict[str, Any]) -> None:
    """All of it or nothing."""
    write_atomic(out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
