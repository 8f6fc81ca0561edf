"""The tables of docs/scale.md: SSD-1B beside SDXL on 8 and 64 cards, computed by the dry run's own code.

    python scripts/scale_table.py

prints Markdown; a test holds the page against it. Nothing here is measured: operations and bytes are counted,
the cards' rate is the maker's, and what of it is reached and what an hour costs are the assumptions below.
"""

from __future__ import annotations

from ssd1b.base.units import human_bytes
from ssd1b.distill.forecast import Place, StageForecast, foresee
from ssd1b.distill.probe import SHARES
from ssd1b.distill.recipe import Stage
from ssd1b.plan import catalog
from ssd1b.plan.count import TOKENS

IMAGES = 20_000_000
ROWS = 4
SIZE_PX = (1024, 1024)
H100_FLOPS = 989e12  # dense bfloat16, NVIDIA's data sheet of the H100 SXM
DOLLARS_AN_HOUR = 2.5  # assumed, one H100
LATENT_BYTES = 4 * 128 * 128 * 2
TEXT_BYTES = (TOKENS * 2048 + 1280) * 2


def main() -> None:
    """Print both tables."""
    print(tables())


def tables() -> str:
    """Both tables as Markdown."""
    seen = {ranks: forecast(ranks) for ranks in (8, 64)}
    return f"{memory_table(seen[8], forecast(8, 'fsdp2'))}\n\n{time_table(seen)}"


def forecast(ranks: int, parallel: str = "ddp") -> StageForecast:
    """The published recipe's stage with an average, four samples a card."""
    stage = Stage.model_validate({
        "name": "x", "plan": "ssd-1b", "start": "teacher", "teacher": "sdxl", "steps": 1,
        "batch": ROWS * ranks,
        "precision": "bf16", "gradient_checkpointing": True, "ema": 0.999, "parallel": parallel,
    })  # fmt: skip
    return foresee(stage, catalog.find("ssd-1b"), SIZE_PX, Place("cuda", ranks))


def memory_table(whole: StageForecast, shared: StageForecast) -> str:
    """Bytes on each card by part, whole (DDP) and in eight shares (FSDP2)."""
    rows = [
        f"| {part} | {human_bytes(size)} | {human_bytes(shared.memory.parts[part])} |"
        for part, size in whole.memory.parts.items()
    ]
    rows.append(f"| in all | {human_bytes(whole.memory.total)} | {human_bytes(shared.memory.total)} |")
    rows.append(
        f"| with a tenth in reserve | {human_bytes(whole.memory.needed)} |"
        f" {human_bytes(shared.memory.needed)} |"
    )
    return "\n".join(["| on each card | `ddp` | `fsdp2`, 8 cards |", "|---|---:|---:|", *rows])


def time_table(seen: dict[int, StageForecast]) -> str:
    """Hours, dollars and bytes for one pass over 20 million images."""
    low, high = SHARES["cuda"]
    head = "| | " + " | ".join(f"{ranks} cards" for ranks in seen) + " |"
    rows = {
        "samples a step": [f"{ROWS * ranks}" for ranks in seen],
        "steps": [f"{IMAGES // (ROWS * ranks):,}" for ranks in seen],
        "operations a step and card": [f"{each.work.total / 1e12:.1f} TFLOP" for each in seen.values()],
        f"hours, at {high:.0%} to {low:.0%} of the rate": [
            f"{hours(ranks, each, high):.0f} to {hours(ranks, each, low):.0f}" for ranks, each in seen.items()
        ],
        f"dollars, at ${DOLLARS_AN_HOUR} a card and hour": [
            f"{dollars(ranks, each, high):,.0f} to {dollars(ranks, each, low):,.0f}"
            for ranks, each in seen.items()
        ],
        "cached latents": [human_bytes(IMAGES * LATENT_BYTES)] * len(seen),
        "cached text, if asked for": [human_bytes(IMAGES * TEXT_BYTES)] * len(seen),
        "read from the cache, latents only": [
            f"{human_bytes(ROWS * ranks * LATENT_BYTES / step_s(each, high))}/s"
            for ranks, each in seen.items()
        ],
        "one checkpoint": [human_bytes(each.checkpoint_bytes) for each in seen.values()],
    }
    body = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join([head, "|---" + "|---:" * len(seen) + "|", *body])


def step_s(seen: StageForecast, share: float) -> float:
    """Seconds of a step."""
    return seen.work.total / (H100_FLOPS * share)


def hours(ranks: int, seen: StageForecast, share: float) -> float:
    """Hours by the clock."""
    return IMAGES / (ROWS * ranks) * step_s(seen, share) / 3600


def dollars(ranks: int, seen: StageForecast, share: float) -> float:
    """What the cards cost in that time."""
    return hours(ranks, seen, share) * ranks * DOLLARS_AN_HOUR


if __name__ == "__main__":
    main()
