"""The model card of a distilled student: README.md with front matter that the model hub reads.

Written from facts that a run knows about itself; what is not known is said to be unknown. Does not know
runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from ssd1b.base.files import versions
from ssd1b.plan.count import parameters
from ssd1b.plan.layers import LayerPlan

# Weights of the SDXL family pass their licence on to what is made from them.
_SDXL = "openrail++"
_SDXL_URL = "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card says.

    Attributes:
        name: the run's.
        plan: which layers stayed.
        stages: a mapping of "name", "teacher", "steps", "batch", "learning_rate", "losses" for each stage.
        data: where pictures and captions came from, in words.
        last_losses: the last logged losses, by name.
        scores: an evaluation's scores, by name; empty where there was none.
    """

    name: str
    plan: LayerPlan
    stages: Sequence[Mapping[str, object]]
    data: str
    last_losses: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


def card(facts: Facts) -> str:
    """The whole README.md."""
    matter = yaml.safe_dump(_front_matter(facts), sort_keys=False).strip()
    student, teacher = parameters(facts.plan.shape), parameters(facts.plan.teacher)
    return "\n".join(
        [
            f"---\n{matter}\n---\n",
            f"# {facts.name}\n",
            f"A student of plan `{facts.plan.name}`, distilled layer by layer: {student:,} UNet parameters,"
            f" {student / teacher:.0%} of its teacher's {teacher:,}.\n",
            "## What was kept\n",
            _kept(facts.plan),
            "## Training\n",
            _table(facts.stages),
            f"Data: {facts.data}\n",
            *_numbers("Last logged losses, unweighted", facts.last_losses),
            *(_numbers("Evaluation", facts.scores) or ["It was not evaluated yet.\n"]),
            "## Licence\n",
            _licence(facts),
            f"Made with {', '.join(f'{name} {version}' for name, version in versions().items())}.",
            "",
        ]
    )


def _front_matter(facts: Facts) -> dict[str, object]:
    teachers = _hub_ids(facts)
    known = {"license": _SDXL, "license_link": _SDXL_URL} if teachers else {"license": "unknown"}
    base = {"base_model": teachers, "base_model_relation": "finetune"} if teachers else {}
    return {
        **known,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        **base,
        "tags": ["distillation", "stable-diffusion-xl", "text-to-image"],
    }


def _hub_ids(facts: Facts) -> list[str]:
    """Teachers that are hub ids (owner/model), without revisions; places on a disk are nobody's business."""
    names = [str(stage["teacher"]).partition("@")[0] for stage in facts.stages if stage.get("teacher")]
    return list(dict.fromkeys(n for n in names if n.count("/") == 1 and not n.startswith((".", "/", "~"))))


def _kept(plan: LayerPlan) -> str:
    rows = []
    for site, depth in plan.teacher.depths.items():
        blocks = plan.kept.get(site)
        said = "removed" if blocks is None else ", ".join(map(str, blocks)) or "none"
        rows.append(f"| `{site}` | {depth} | {said} |")
    return "\n".join(["| attention site | blocks of the teacher | kept |", "|---|---|---|", *rows, ""])


def _table(stages: Sequence[Mapping[str, object]]) -> str:
    names = ("name", "teacher", "steps", "batch", "learning_rate", "losses")
    rows = [f"| {' | '.join(_public(stage.get(name)) for name in names)} |" for stage in stages]
    head = f"| {' | '.join(name.replace('_', ' ') for name in names)} |"
    return "\n".join([head, "|---" * len(names) + "|", *rows, ""])


def _public(value: object) -> str:
    """A cell; of a place on this disk only its last part."""
    text = "none" if value is None else str(value)
    return text.rstrip("/").rpartition("/")[2] if text.startswith((".", "/", "~")) else text


def _numbers(title: str, values: Mapping[str, float]) -> list[str]:
    if not values:
        return []
    rows = [f"| {name} | {value:.5g} |" for name, value in values.items()]
    return ["\n".join([f"## {title}\n", "| | |", "|---|---|", *rows, ""])]


def _licence(facts: Facts) -> str:
    if _hub_ids(facts):
        return (
            f"SDXL's licence, [CreativeML Open RAIL++-M]({_SDXL_URL}), holds for models made from it. A"
            " teacher's own page may say more; it was not read.\n"
        )
    return "Not known: the teachers are not models of the hub. It is that of the weights it was made from.\n"
