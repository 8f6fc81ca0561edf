"""The dry run as tables for people. Knows rich markup and units; computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import yaml

from ssd1b.base.units import human_bytes, human_count, human_flops, human_seconds
from ssd1b.cli import show

if TYPE_CHECKING:
    from ssd1b.cli.dry_run import Seen, Verdict


def print_all(seen: Seen, verdict: Verdict) -> None:
    """Recipe, stages, memory, work and time, disk; the verdict last."""
    out = show.stdout()
    plain = seen.run.recipe.model_dump(mode="json", exclude_defaults=True)
    out.print(yaml.safe_dump(plain, sort_keys=False).rstrip(), markup=False, soft_wrap=True)
    out.print("Other keys are at their defaults; --json has all.\n")
    _print_stages(seen)
    _print_memory(seen)
    _print_time(seen)
    _print_disk(seen)
    said, style = ("It fits.", "bold green") if verdict.fits else ("It does not fit.", "bold red")
    out.print(said, style=style)
    for sentence in verdict.why:
        out.print(sentence, markup=False, soft_wrap=True)


def _table(title: str, seen: Seen, rows: Mapping[str, Sequence[str]]) -> None:
    """A table with a column a stage."""
    columns = ("", *(f">{stage.name}" for stage in seen.stages))
    show.table(title, columns, [(name, *cells) for name, cells in rows.items()])


def _print_stages(seen: Seen) -> None:
    stages = seen.stages
    rows = {
        "student": [stage.plan for stage in stages],
        "its parameters": [human_count(stage.parameters) for stage in stages],
        "of them trained": [human_count(stage.trained) for stage in stages],
        "starts from": [stage.start for stage in stages],
        "teacher": [stage.teacher or "none" for stage in stages],
        "its parameters ": [human_count(stage.teacher_parameters) for stage in stages],
        "largest pictures": ["{} × {} px".format(*stage.size_px) for stage in stages],
        "steps to go": [f"{left:,} of {stage.steps:,}" for stage, _, left in seen.rows],
    }
    _table("Stages", seen, rows)


def _print_memory(seen: Seen) -> None:
    stages = seen.stages
    rows = {
        name: [human_bytes(stage.memory.parts[name]) for stage in stages] for name in stages[0].memory.parts
    }
    rows["[bold]in all[/]"] = [human_bytes(stage.memory.total) for stage in stages]
    rows["[bold]with a reserve[/]"] = [human_bytes(stage.memory.needed) for stage in stages]
    rows["activations if recomputed"] = [human_bytes(stage.activations_checkpointed) for stage in stages]
    rows["activations if kept"] = [human_bytes(stage.activations_kept) for stage in stages]
    rows["samples at once"] = [str(stage.rows) for stage in stages]
    _table(f"Memory per device ({seen.run.device}, {human_bytes(seen.memory_free)} free)", seen, rows)


def _print_time(seen: Seen) -> None:
    out, parts = show.stdout(), ("teacher", "forward", "backward", "recompute")
    rows = {part: [human_flops(getattr(stage.work, part)) for stage in seen.stages] for part in parts}
    rows["[bold]a step[/]"] = [human_flops(stage.work.total) for stage in seen.stages]
    rows["seconds"] = [f"{speed.seconds:.3g}" for speed in seen.speeds]
    rows["from, to"] = [f"{speed.low:.3g}, {speed.high:.3g}" for speed in seen.speeds]
    rows["steps/s"] = [f"{1 / speed.seconds:.3g}" for speed in seen.speeds]
    rows["time to go"] = [human_seconds(left * speed.seconds) for _, speed, left in seen.rows]
    _table(f"An optimizer step on each of {seen.ranks} devices, and time", seen, rows)
    for how in dict.fromkeys(speed.how for speed in seen.speeds):
        out.print(f"Seconds are {how}.", markup=False, soft_wrap=True)
    low, middle, high = (seen.hours(edge) for edge in ("low", "seconds", "high"))
    said = f"{middle:.3g} hours to go, from {low:.3g} to {high:.3g}; data, exchange and saving come on top.\n"
    out.print(said, soft_wrap=True)


def _print_disk(seen: Seen) -> None:
    latents, text = (
        sum({getattr(feed, f"{kind}_bytes") for feed in seen.feeds}) for kind in ("latent", "text")
    )
    rows = [
        ("checkpoints and students", human_bytes(seen.disk["run_bytes"]), human_bytes(seen.disk["run_free"])),
        ("cache: latents", human_bytes(latents), human_bytes(seen.disk["cache_free"])),
        ("cache: text", human_bytes(text) if text else "none", ""),
    ]
    show.table("Disk", ("", ">at most", ">free"), rows)
