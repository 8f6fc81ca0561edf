"""The rules a layer plan must obey so that its tensors fit and diffusers can build the student.

Each rule raises a PlanError that names the plan, the place and the way out. This module does not know what
follows from a plan, only whether it is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ssd1b.base.errors import PlanError, did_you_mean
from ssd1b.plan.shape import MID, UNetShape

Kept = Mapping[str, tuple[int, ...]]


def site_stays(site: str, resnets: Kept) -> bool:
    """Whether an attention site is still there once only `resnets` (per block) are kept.

    A site belongs to the residual block of its own index; the middle's stands between the two residual
    blocks and goes with the second.
    """
    block, _, index = site.partition(".attentions.")
    return 1 in resnets[block] if block == MID else int(index) in resnets[block]


def refuse_strangers(plan: str, what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that the teacher does not have; `what` says what kind of place they are."""
    names = list(known)
    for name in given:
        if name not in names:
            raise PlanError(
                f"The plan '{plan}' names the {what} '{name}', which its teacher does not have."
                f"{did_you_mean(name, names)} Known: {', '.join(names)}."
            )


def check_indices(plan: str, teacher: UNetShape, kept: Kept, resnets: Kept) -> None:
    """Refuse indices that the teacher does not have, and blocks or sites about which nothing is said."""
    refuse_strangers(plan, "block", resnets, teacher.blocks)
    for block in teacher.blocks:
        if block not in resnets:
            raise PlanError(f"The plan '{plan}' does not say which residual blocks of '{block}' stay.")
        _check_order(plan, f"{block}.resnets", resnets[block], teacher.resnets(block))
        _check_ends(plan, block, resnets[block], teacher.resnets(block))
    expected = {site for site in teacher.depths if site_stays(site, resnets)}
    if set(kept) != expected:
        odd = ", ".join(sorted(set(kept) ^ expected))
        raise PlanError(f"The plan '{plan}' must list exactly the attention sites that stay; look at {odd}.")
    for site, blocks in kept.items():
        _check_order(plan, site, blocks, teacher.depths[site])


def check_buildable(plan: str, resnets: Kept, student: UNetShape) -> None:
    """Refuse what a diffusers config cannot say.

    diffusers has one number of layers for all blocks, and gives the middle the depth of the last down block.
    """
    down = {len(kept) for block, kept in resnets.items() if block.startswith("down_")}
    up = {len(kept) - 1 for block, kept in resnets.items() if block.startswith("up_")}
    if len(down | up) != 1:
        raise PlanError(
            f"The plan '{plan}' keeps a different number of residual blocks from block to block. diffusers"
            " needs the same number in every down block, and one more in every up block."
        )
    last = student.down_depths[-1]
    if student.mid_depth is not None and last and student.mid_depth != last[0]:
        raise PlanError(
            f"The plan '{plan}' keeps {student.mid_depth} transformer blocks in the middle and {last[0]} at"
            " the first site of the last down block. diffusers can only give both the same number: keep as"
            f" many, or drop the middle's attention by keeping [0] of '{MID}'."
        )


def _check_order(plan: str, where: str, kept: tuple[int, ...], count: int) -> None:
    said = f"The plan '{plan}' keeps {list(kept)} at '{where}'"
    if list(kept) != sorted(set(kept)):
        raise PlanError(f"{said}. Indices must ascend and not repeat.")
    if any(not 0 <= index < count for index in kept):
        raise PlanError(f"{said}, which has {count}: use indices 0 to {count - 1}.")


def _check_ends(plan: str, block: str, kept: tuple[int, ...], count: int) -> None:
    """Refuse to drop a residual block of a width no other has: the first; in the up path also the last."""
    if block == MID:
        if kept not in ((), (0,), (0, 1)[:count]):
            raise PlanError(
                f"The plan '{plan}' keeps {list(kept)} of '{MID}'; it can keep [], [0] or [0, 1]."
            )
        return
    for index in (0,) if block.startswith("down_") else (0, count - 1):
        if index not in kept:
            raise PlanError(
                f"The plan '{plan}' drops '{block}.resnets.{index}', which changes the number of channels,"
                " so no other residual block can take its place. Keep it."
            )
