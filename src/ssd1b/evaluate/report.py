"""From models, answers and seconds to a report on disk: report.html, report.md, report.json.

    out/ report.html   one file, nothing loaded from elsewhere
         report.md     the same in Markdown
         report.json   every figure
         assets/       pictures and drawings for report.md

This module gathers; what things look like is known by `page` and `markdown`.
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ssd1b.base.files import versions, write_atomic
from ssd1b.evaluate import ablation, losses, markdown, page
from ssd1b.evaluate.comparison import Comparison, Drawing, Entry, Shot, Size, Speed, record
from ssd1b.evaluate.scores import scores
from ssd1b.formats.unet_layout import layout_name
from ssd1b.plan import catalog, count
from ssd1b.plan.draw import svg

if TYPE_CHECKING:
    from ssd1b.evaluate.judging import Answer, Settings
    from ssd1b.generate.model import Model


@dataclass(frozen=True, slots=True)
class Contender:
    """A model on its way into a report: the name it is shown by, and what it was asked for as."""

    name: str
    source: str
    model: Model
    run: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the model lies."""
        assert self.model.folder is not None, "a loaded model comes from a folder"
        return self.model.folder


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out about the contenders, in their order; `answers` is empty where nobody judged."""

    speeds: Sequence[Speed]
    answers: Sequence[Sequence[Answer]]
    shots: tuple[Shot, ...]
    aspects: tuple[Shot, ...]
    reader_accuracy: Mapping[str, float]


def gather(
    contenders: Sequence[Contender], found: Findings, title: str, facts: Mapping[str, str]
) -> Comparison:
    """Put together everything a report shows.

    Raises:
        DamagedFileError: a model carries an ablation file that cannot be read.
        MissingFileError: a run that was named has no log.
    """
    answers = found.answers or [[] for _ in contenders]
    entries = tuple(
        _entry(one, speed, given) for one, speed, given in zip(contenders, found.speeds, answers, strict=True)
    )
    carried = [one.folder / "ablation.json" for one in reversed(contenders)]
    shipped = next((path for path in carried if path.is_file()), None)
    return Comparison(
        title=title,
        entries=entries,
        shots=found.shots,
        aspects=found.aspects,
        drawings=_drawings(contenders),
        ablation=ablation.read(shipped) if shipped else None,
        reader_accuracy={name: share for name, share in found.reader_accuracy.items() if share <= 1},
        facts=facts,
    )


def write(comparison: Comparison, out: Path) -> Path:
    """Write the report into `out`, beside whatever is there; return report.html."""
    path = out / "report.html"
    for name, data in markdown.sheets(comparison).items():
        write_atomic(out / "assets" / name, data)
    for name, drawing in markdown.drawings(comparison).items():
        write_atomic(out / "assets" / name, drawing)
    write_atomic(out / "report.md", markdown.markdown(comparison))
    facts = {"report": str(path), **record(comparison)}
    write_atomic(out / "report.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    write_atomic(path, page.html(comparison))
    return path


def facts_of(command: Sequence[str], model: Model, settings: Settings, prompts: int) -> dict[str, str]:
    """How a comparison was measured, name by name."""
    made = {name: version for name, version in versions().items() if name in ("ssd1b", "torch", "diffusers")}
    asked = f"{prompts} prompts per model, " if prompts else ""
    return {
        "command": shlex.join(command),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": commit() or "not in a repository",
        "device": f"{model.placement.reason}; {torch.get_num_threads()} threads of {_processor()}",
        "pictures": f"{asked}{settings.steps} steps of {settings.scheduler}, guidance {settings.guidance:g},"
        f" seed {settings.seed}",
        "versions": ", ".join(f"{name} {version}" for name, version in made.items()),
    }


def commit() -> str:
    """The commit of the source tree this runs from; "" where there is none or no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=10", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _entry(contender: Contender, speed: Speed, answers: Sequence[Answer]) -> Entry:
    model, folder = contender.model, contender.folder
    native = count.native_px(model.shape)
    size = Size(
        params=count.parameters(model.shape),
        unet_bytes=sum(path.stat().st_size for path in (folder / "unet").glob("*.safetensors")),
        all_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        blocks=model.shape.transformer_blocks,
        flops=count.flops(model.shape, native, native),
        px=(native, native),
    )
    return Entry(
        name=contender.name,
        source=contender.source,
        size=size,
        speed=speed,
        scores=scores([(one.prompt, one.reading) for one in answers]) if answers else None,
        curves=losses.of_run(contender.run) if contender.run else losses.of_model(folder),
    )


def _drawings(contenders: Sequence[Contender]) -> tuple[Drawing, ...]:
    """One drawing per plan of the catalog that the models have the shape of; whole teachers only if alone."""
    owners: dict[str, list[str]] = {}
    for one in contenders:
        name = layout_name(one.model.shape)
        if name is not None:
            owners.setdefault(name, []).append(one.name)
    cut = {name: who for name, who in owners.items() if not catalog.find(name).keeps_everything}
    return tuple(
        Drawing(name, catalog.find(name).about, svg(catalog.find(name)), tuple(who))
        for name, who in (cut or owners).items()
    )


def _processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
