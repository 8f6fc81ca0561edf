"""What the teacher is worth: the carved mini-ssd trained with and without one, several seeds, scored alike.

    python scripts/ablate_mini.py --out runs/ablation

Arms: nothing at all; the faithful and the normalised losses; no teacher with as many samples; no teacher with
as much time. Each run is `ssd1b distill mini-ablation` in a process of one thread, one process per core, then
`ssd1b evaluate`. The same command goes on where it stopped. Writes OUT/ablation.json, which the report draws.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ssd1b.base.files import write_atomic, write_manifest

PYTHON = (sys.executable, "-m", "ssd1b")
NO_TEACHER = ("stages.0.loss.output=0", "stages.0.loss.feature=0")


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training; `keys` are settings of the recipe."""

    slug: str
    name: str
    keys: tuple[str, ...]


FAITHFUL = Arm("faithful", "distilled (faithful)", ())
NORMALISED = Arm("normalised", "distilled (normalised)", ("stages.0.loss.feature_mode=normalised",))
ALONE = Arm("alone", "without teacher, equal samples", NO_TEACHER)
ALONE_LONGER = Arm("alone-longer", "without teacher, equal time", NO_TEACHER)
ARMS = (FAITHFUL, NORMALISED, ALONE, ALONE_LONGER)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where runs go and how long they are."""

    out: Path
    steps: int
    prompts: int
    keys: tuple[str, ...]

    def folder(self, arm: Arm, seed: int) -> Path:
        """The run folder of an arm with a seed."""
        return self.out / f"{arm.slug}-{seed}"

    def train(self, arm: Arm, seed: int, steps: int) -> None:
        """Train one arm (or find it trained)."""
        keys = (f"seed={seed}", f"stages.0.steps={steps}", *self.keys, *arm.keys)
        told = [word for key in keys for word in ("--set", key)]
        call(*PYTHON, "distill", "mini-ablation", "--out", str(self.folder(arm, seed)), *told)

    def seconds(self, arm: Arm, seed: int) -> float:
        """Training seconds of a run, from the rates in its log."""
        rows = [json.loads(line) for line in (self.folder(arm, seed) / "log.jsonl").read_text().splitlines()]
        rows = [row for row in rows if "steps_per_s" in row]
        before = [0, *(row["step"] for row in rows)]
        return sum((row["step"] - was) / row["steps_per_s"] for was, row in zip(before, rows, strict=False))

    def batch(self, arm: Arm, seed: int) -> int:
        """Samples per step of a run, as its own recipe says."""
        recipe = json.loads((self.folder(arm, seed) / "recipe.json").read_text())
        return int(recipe["stages"][0]["batch"])

    def score(self, model: str) -> dict[str, object]:
        """Scores of a model on the fixed prompts."""
        return json.loads(call(*PYTHON, "evaluate", model, "--prompts", str(self.prompts), "--json"))


def call(*words: str) -> str:
    """Run a command in one thread and return what it printed."""
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(words, env=quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def run(bench: Bench, seeds: Sequence[int], workers: int) -> dict[str, object]:
    """Train and score every arm and seed."""
    with ThreadPoolExecutor(workers) as pool:
        firsts = [(arm, seed) for seed in seeds for arm in (FAITHFUL, ALONE, NORMALISED)]
        list(pool.map(lambda job: (bench.train(*job, bench.steps), say(bench, *job)), firsts))
        slow = sum(bench.seconds(FAITHFUL, seed) for seed in seeds)
        fast = sum(bench.seconds(ALONE, seed) for seed in seeds)
        longer = round(bench.steps * slow / fast)
        list(pool.map(lambda s: (bench.train(ALONE_LONGER, s, longer), say(bench, ALONE_LONGER, s)), seeds))
        jobs = [(arm, seed) for arm in ARMS for seed in seeds]
        models = [str(bench.folder(*job) / "student") for job in jobs]
        scored = list(pool.map(bench.score, [*models, str(bench.out / "carved"), "mini-sdxl"]))
    steps = {arm.slug: longer if arm is ALONE_LONGER else bench.steps for arm in ARMS}
    arms = [
        {"name": "carved, not trained", "samples": 0, "seconds": 0.0, "seeds": [{**scored[-2], "seed": 0}]}
    ]
    for arm in ARMS:
        rows = [{**row, "seed": s} for (a, s), row in zip(jobs, scored, strict=False) if a is arm]
        seconds = sum(bench.seconds(arm, seed) for seed in seeds) / len(seeds)
        samples = steps[arm.slug] * bench.batch(arm, seeds[0])
        arms.append({"name": arm.name, "samples": samples, "seconds": round(seconds, 1), "seeds": rows})
    return {"arms": arms, "teacher": scored[-1], "prompts": bench.prompts}


def say(bench: Bench, arm: Arm, seed: int) -> None:
    """Tell that a run is finished."""
    sys.stderr.write(f"{arm.name}, seed {seed}: {bench.seconds(arm, seed):.0f} s\n")


def main() -> None:
    """Read the command line, run, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--set", action="append", default=[], dest="keys", help="change the recipe for all arms"
    )
    told = parser.parse_args()
    bench = Bench(told.out, told.steps, told.prompts, tuple(told.keys))
    told.out.mkdir(parents=True, exist_ok=True)
    if not (told.out / "carved").is_dir():
        call(
            *PYTHON,
            "carve",
            "--teacher",
            "mini-sdxl",
            "--plan",
            "mini-ssd",
            "--out",
            str(told.out / "carved"),
        )
    found = run(bench, range(told.seeds), told.workers)
    found["command"] = shlex.join(["python", "scripts/ablate_mini.py", *sys.argv[1:]])
    write_atomic(told.out / "ablation.json", json.dumps(found, indent=1) + "\n")
    write_manifest(told.out, command=sys.argv, inputs={})


if __name__ == "__main__":
    main()
