"""Ablation files and loss logs: read when sound, named when not."""

from __future__ import annotations

import json
import statistics
from importlib.resources import files
from pathlib import Path

import pytest

from ssd1b.base.errors import DamagedFileError, MissingFileError
from ssd1b.evaluate import ablation, losses

ARM = {"name": "distilled", "samples": 10, "seconds": 2.5, "seeds": [{"seed": 0, "overall": 0.8}]}

# scipy 1.17: scipy.stats.t.interval(0.95, n - 1, loc=mean, scale=scipy.stats.sem(values))
SCIPY = [
    ((0.82, 0.835, 0.827), (0.808684, 0.845983)),
    ((0.5, 0.6), (0.0, 1.0)),
    ((0.7, 0.72, 0.69, 0.71, 0.73), (0.690368, 0.729632)),
]


def test_an_ablation_file_is_read_with_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "ablation.json"
    more = {**ARM, "seeds": [{"seed": n, "overall": 0.8 + n / 100, "scores": {}} for n in range(3)]}
    path.write_text(json.dumps({"arms": [ARM, more], "teacher": {"overall": 0.9}, "command": ["a", "b"]}))
    read = ablation.read(path)
    assert [arm.name for arm in read.arms] == ["distilled", "distilled"]
    assert read.teacher == 0.9
    assert read.command == "a b"
    assert read.arms[0].interval is None
    assert read.arms[1].mean == pytest.approx(0.81)


def test_the_shipped_ablation_names_every_seed_once() -> None:
    file = json.loads((files("ssd1b.mini") / "weights/mini-ssd/ablation.json").read_text("utf-8"))
    trained = [arm for arm in file["arms"] if arm["samples"]]
    assert trained, "arms that were trained"
    for arm in trained:
        seeds = [run["seed"] for run in arm["seeds"]]
        assert len(seeds) >= 3 and len(set(seeds)) == len(seeds), arm["name"]


@pytest.mark.parametrize("content", ["{", "{}", '{"arms": []}', '{"arms": [{"name": "x"}]}'])
def test_an_ablation_file_that_makes_no_sense_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "ablation.json"
    path.write_text(content)
    with pytest.raises(DamagedFileError, match="is not an ablation file"):
        ablation.read(path)


@pytest.mark.parametrize(("values", "ends"), SCIPY)
def test_the_interval_of_a_mean_is_students(values: tuple[float, ...], ends: tuple[float, float]) -> None:
    assert ablation.mean_interval(values) == pytest.approx(ends, abs=2e-5)


def line(stage: str, total: int, **parts: float) -> dict[str, object]:
    return {"stage": stage, "total": total, "losses": parts}


def test_curves_are_found_beside_a_model_and_in_its_run(tmp_path: Path) -> None:
    lines = [line("a", 10, task=0.5), {"event": "saved", "total": 10}, line("b", 20, task=0.4, output=0.1)]
    run = tmp_path / "run"
    (run / "student").mkdir(parents=True)
    assert losses.of_model(run / "student") is None
    (run / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "training.json").write_text(json.dumps({"lines": lines}))
    for curves in (losses.of_model(run / "student"), losses.of_run(run), losses.of_model(shipped)):
        assert curves is not None
        assert curves.parts == {"task": ((10, 0.5), (20, 0.4)), "output": ((20, 0.1),)}
        assert curves.stages == (("a", 10), ("b", 20))


def test_a_run_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no log\.jsonl"):
        losses.of_run(tmp_path)


def test_a_long_curve_is_thinned_to_means() -> None:
    points = [(float(x), float(x % 7)) for x in range(1000)]
    thin = losses.thinned(points, 100)
    assert len(thin) == 100
    assert statistics.fmean(y for _, y in thin) == pytest.approx(statistics.fmean(y for _, y in points))
