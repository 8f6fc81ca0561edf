"""`ssd1b distill R --dry-run`: what a run will take and what would stop it, before it starts.

Wires the checks, the forecast, the probe and this machine's free memory and disk, and shows them. Nothing
is written into the run, nothing is fetched, no weights are read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssd1b.base.errors import MissingFileError
from ssd1b.base.files import cache_folder
from ssd1b.base.units import human_bytes
from ssd1b.cli import show

if TYPE_CHECKING:
    from ssd1b.distill.forecast import StageForecast
    from ssd1b.distill.preflight import Look
    from ssd1b.distill.probe import Speed
    from ssd1b.distill.recipe import Recipe, Stage
    from ssd1b.distill.stages import Run
    from ssd1b.plan.shape import UNetShape


@dataclass(frozen=True, slots=True)
class Feed:
    """A stage's data: samples, the largest pictures, and bytes of latents and text in the cache."""

    samples: int
    size_px: tuple[int, int]
    latent_bytes: int
    text_bytes: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it fits, and a sentence on each thing that does not or cannot be known."""

    fits: bool
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is said about a run: its stages, how fast each goes, what feeds it, and what the disk has."""

    run: Run
    ranks: int
    stages: Sequence[StageForecast]
    speeds: Sequence[Speed]
    feeds: Sequence[Feed]
    disk: Mapping[str, int]
    memory_free: int
    steps_done: int

    @property
    def rows(self) -> Iterator[tuple[StageForecast, Speed, int]]:
        """Each stage with its speed and the steps it has still to do."""
        done = self.steps_done
        for stage, speed in zip(self.stages, self.speeds, strict=True):
            yield stage, speed, max(stage.steps - done, 0)
            done = max(done - stage.steps, 0)

    def hours(self, edge: str = "seconds") -> float:
        """Hours that the rest of the run takes at the speeds' "low", "seconds" or "high"."""
        return sum(left * float(getattr(speed, edge)) for _, speed, left in self.rows) / 3600


def report(run: Run, ranks: int, *, as_json: bool) -> bool:
    """Check, forecast and show a run on `ranks` devices like this one; whether it fits.

    Raises:
        UserError: whatever the real run would stop at, as far as it can be seen without loading anything.
    """
    from ssd1b.cli import forecast_table, trackers
    from ssd1b.distill.preflight import check
    from ssd1b.distill.stages import check_same_recipe

    trackers.check(run.recipe)
    look = looking(run)
    notes = check(run.recipe, 0, look, ranks)
    check_same_recipe(run)
    feeds = [feed_of(run.recipe, stage, look) for stage in run.recipe.stages]
    seen = _look(run, ranks, look, feeds)
    verdict = _verdict(seen, notes)
    if as_json:
        show.print_json(_record(seen, verdict))
    else:
        forecast_table.print_all(seen, verdict)
    return verdict.fits


def looking(run: Run) -> Look:
    """Names as the run finds them, but nothing is fetched and of a model only its layout is read."""
    from ssd1b.distill.preflight import Look

    return Look(run.find.plan, layout_of)


def layout_of(name: str) -> UNetShape | None:
    """The shape of a model's UNet, from its configuration; None where the model is still on the hub.

    Raises:
        MissingFileError, DamagedFileError, RequestError: no model has that name, or it cannot be read.
    """
    from ssd1b.formats import hub
    from ssd1b.formats.detect import detect
    from ssd1b.formats.diffusers_folder import find_weights, read_json
    from ssd1b.generate.load import find
    from ssd1b.mini import embedded
    from ssd1b.models.folder import part_folder
    from ssd1b.plan.shape import shape_of

    place = Path(name).expanduser()
    if name in embedded.NAMES or not place.exists():
        on_hub = name not in embedded.NAMES and hub.is_id(name) and not name.startswith(".")
        found = hub.on_disk(*hub.split_id(name)) if on_hub else find(name)
        if found is None:
            return None
        place = found
    if place.is_file():
        return detect(place).shape
    unet = part_folder(place, "unet")
    find_weights(unet, None)
    return shape_of(read_json(unet / "config.json"))


def feed_of(recipe: Recipe, stage: Stage, look: Look) -> Feed:
    """What the recipe's source would bring, from its settings alone.

    Raises:
        RecipeError: the source is unknown, or its settings are wrong.
        MissingFileError: nothing is prepared where its pictures should be.
    """
    from ssd1b.cli.distill import check_source
    from ssd1b.mini.dataset import MiniData, latent_bytes
    from ssd1b.plan.count import native_px

    check_source(recipe)
    if recipe.source == "images":
        return _pictures(stage)
    side_px = native_px(look.plan(stage.plan).shape)
    data = MiniData.parse(stage.data)
    return Feed(data.scenes, (side_px, side_px), latent_bytes(data), 0)


def _pictures(stage: Stage) -> Feed:
    """What `ssd1b data cache` left; it lies there already, so it takes no more of the disk."""
    from ssd1b.data import needed

    needed("pyarrow", "fsspec")
    from ssd1b.data.buckets import sized
    from ssd1b.data.cache import STRAIGHT
    from ssd1b.data.images import ImageData, caches
    from ssd1b.data.places import Place

    data = ImageData.parse(stage.data)
    found = caches(Place(data.path), "latents-")
    if not found:
        raise MissingFileError(
            f"Stage '{stage.name}': {data.path} has no finished cache of latents. Make one: `ssd1b data cache"
            f" {data.path} --model MODEL`."
        )
    _, _, listed = found[0]
    straight = [shard for shard in listed if shard.variant == STRAIGHT]
    sizes_px = [sized(shard.group) for shard in straight]
    return Feed(sum(shard.rows for shard in straight), max(sizes_px, key=lambda px: px[0] * px[1]), 0, 0)


def _look(run: Run, ranks: int, look: Look, feeds: Sequence[Feed]) -> Seen:
    from ssd1b.distill.forecast import Place, disk_bytes, foresee
    from ssd1b.models.device import free_bytes

    place = Place(run.device.type, ranks)
    pairs = list(zip(run.recipe.stages, feeds, strict=True))
    stages = [foresee(stage, look.plan(stage.plan), feed.size_px, place) for stage, feed in pairs]
    disk = {
        "run_bytes": disk_bytes(list(zip(run.recipe.stages, stages, strict=True)), _lent_bytes(run.recipe)),
        "run_free": _free_disk(run.folder),
        "cache_bytes": sum({feed.latent_bytes + feed.text_bytes for feed in feeds}),
        "cache_free": _free_disk(cache_folder()),
    }
    return Seen(
        run, ranks, stages, _speeds(run, stages), feeds, disk, free_bytes(run.device), _steps_done(run.folder)
    )


def _speeds(run: Run, stages: Sequence[StageForecast]) -> list[Speed]:
    """Seconds a step: of real steps where they are short and fit, else of the matrix products' rate."""
    import torch

    from ssd1b.distill import probe
    from ssd1b.models.device import free_bytes

    rates: dict[str, float] = {}
    speeds = []
    for stage, seen in zip(run.recipe.stages, stages, strict=True):
        if stage.precision not in rates:
            numbers = torch.bfloat16 if stage.precision == "bf16" else torch.float32
            rates[stage.precision] = probe.matmul_rate(run.device, numbers)
        speed = probe.estimated(seen.work.total, rates[stage.precision], run.device.type)
        if speed.seconds < probe.REAL_STEPS_BELOW_S and seen.memory.needed < free_bytes(run.device):
            speed = probe.measured(stage, run.find.plan(stage.plan), seen.size_px, seen.rows, run.device)
        speeds.append(speed)
    return speeds


def _steps_done(folder: Path) -> int:
    """Steps of the newest checkpoint, by its name; whether it is sound is found out when it is loaded."""
    steps = folder / "steps"
    names = [path.name for path in steps.iterdir() if path.name.isdigit()] if steps.is_dir() else []
    return max(map(int, names), default=0)


def _lent_bytes(recipe: Recipe) -> int:
    """Bytes of the parts that are put beside each student, as far as the lender is a folder on this disk."""
    folder = Path(recipe.parts_model or "")
    if not recipe.parts_model or not folder.is_dir():
        return 0
    return sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and "unet" not in path.parts
    )


def _free_disk(folder: Path) -> int:
    home = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(home).free


def _verdict(seen: Seen, notes: Sequence[str]) -> Verdict:
    on_one_machine = seen.ranks if seen.run.device.type == "cpu" else 1
    why = []
    for stage in seen.stages:
        needed = on_one_machine * stage.memory.needed
        if needed > seen.memory_free:
            why.append(
                f"Stage '{stage.name}' needs {human_bytes(needed)} on {seen.run.device}, and"
                f" {human_bytes(seen.memory_free)} are free.{_less_memory(stage)}"
            )
    for what, place in (("run", seen.run.folder), ("cache", cache_folder())):
        if seen.disk[f"{what}_bytes"] > seen.disk[f"{what}_free"]:
            why.append(
                f"{place} needs {human_bytes(seen.disk[f'{what}_bytes'])} of disk, and"
                f" {human_bytes(seen.disk[f'{what}_free'])} are free. Free some, or give another place."
            )
    return Verdict(not why, (*why, *notes))


def _less_memory(stage: StageForecast) -> str:
    saved = stage.memory.activations - stage.activations_checkpointed
    if saved > 0:
        return f" gradient_checkpointing: true would take {human_bytes(saved)} less."
    return " A smaller batch (with more accumulate) or more ranks would take less."


def _record(seen: Seen, verdict: Verdict) -> dict[str, object]:
    """The one JSON object."""
    stages = [
        asdict(stage)
        | {"speed": asdict(speed), "steps_left": left, "hours_left": left * speed.seconds / 3600}
        | {
            "memory_total": stage.memory.total,
            "memory_needed": stage.memory.needed,
            "flops": stage.work.total,
        }
        for stage, speed, left in seen.rows
    ]
    return {
        "recipe": seen.run.recipe.model_dump(mode="json"),
        "device": str(seen.run.device),
        "ranks": seen.ranks,
        "stages": stages,
        "data": [asdict(feed) for feed in seen.feeds],
        "memory_free": seen.memory_free,
        "disk": dict(seen.disk),
        "steps_done": seen.steps_done,
        "hours": {edge: seen.hours(edge) for edge in ("low", "seconds", "high")},
        **asdict(verdict),
    }
