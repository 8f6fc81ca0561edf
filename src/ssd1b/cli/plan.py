"""`ssd1b plan`: list, show, compare and draw layer plans.

A plan is given by its name in the catalog or as the path of a YAML file. Needs no weights and no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssd1b.base.errors import RequestError
from ssd1b.base.units import human_bytes, human_count, human_flops, latent_side
from ssd1b.cli import show
from ssd1b.plan import catalog, count, ledger
from ssd1b.plan.layers import LayerPlan
from ssd1b.plan.shape import UNetShape

_HELP = """Which layers a UNet keeps, and what follows: size, cost, picture.

Examples:

    ssd1b plan list

    ssd1b plan show ssd-1b

    ssd1b plan diff sdxl ssd-1b

    ssd1b plan draw ssd-1b --out ssd-1b.svg
"""
app = typer.Typer(no_args_is_help=True, add_completion=False, help=_HELP)

NameOrPath = Annotated[str, typer.Argument(help="A plan's name (`ssd1b plan list`), or a YAML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]


@app.command("list")
def list_plans(as_json: Json = False) -> None:
    """List the plans that have a name, with what each costs.

    Examples:
        ssd1b plan list

        ssd1b plan list --json
    """
    plans = [catalog.find(name) for name in catalog.NAMES]
    if as_json:
        show.print_json({"plans": [_brief(plan) for plan in plans]})
        return
    columns = ("plan", ">params", ">kept", ">blocks", ">one call", "what it is")
    show.table("", columns, [_row(plan) for plan in plans])
    show.stdout().print(
        "[dim]kept: of the teacher's parameters; blocks: transformer blocks; one call: of the UNet, for one"
        " picture of its native size (1024×1024, the miniatures 128×128) and 77 text tokens.[/]"
    )


@app.command("show")
def show_plan(
    name: NameOrPath,
    size: Annotated[str, typer.Option("--size", help="Picture size in pixels for the FLOPs, WxH.")] = "",
    as_json: Json = False,
) -> None:
    """Show what a plan keeps at each place, and what the student costs.

    Examples:
        ssd1b plan show ssd-1b

        ssd1b plan show vega --size 1216x832

        ssd1b plan show my-plan.yaml --json
    """
    plan = _find(name)
    width_px, height_px = _size(size, plan.shape)
    facts = _facts(plan, width_px, height_px)
    if as_json:
        show.print_json(facts)
        return
    _print_kept(plan)
    _print_parts(plan)
    _print_costs(plan, width_px, height_px)


@app.command("diff")
def diff(
    a: Annotated[str, typer.Argument(help="A plan's name or path.")],
    b: Annotated[str, typer.Argument(help="Another one of the same teacher.")],
    as_json: Json = False,
) -> None:
    """Compare two plans of one teacher: what only the one or the other keeps, to the last parameter.

    Examples:
        ssd1b plan diff sdxl ssd-1b

        ssd1b plan diff ssd-1b vega --json
    """
    first, second = _find(a), _find(b)
    only_first, only_second = ledger.only_in(first, second), ledger.only_in(second, first)
    if as_json:
        show.print_json(_diff_facts((first, only_first), (second, only_second)))
        return
    sites = [site for site in first.teacher.depths if first.kept.get(site) != second.kept.get(site)]
    rows = [(site, _kept_words(first, site), _kept_words(second, site)) for site in sites]
    rows += [
        (f"{block}.resnets", _indices(first.resnets[block]), _indices(second.resnets[block]))
        for block in first.teacher.blocks
        if first.resnets[block] != second.resnets[block]
    ]
    show.table("Where they differ", ("place", first.name, second.name), rows)
    for plan, entries in ((first, only_first), (second, only_second)):
        _print_ledger(plan, entries)
    sizes = count.parameters(first.shape), count.parameters(second.shape)
    show.stdout().print(f"{sizes[0]:,} → {sizes[1]:,} parameters, a difference of {sizes[1] - sizes[0]:+,}.")


@app.command("draw")
def draw(
    name: NameOrPath,
    out: Annotated[Path, typer.Option("--out", help="The SVG file to write.")],
) -> None:
    """Draw the UNet as a person would sketch it: every layer a cell, kept or removed.

    Examples:
        ssd1b plan draw ssd-1b --out ssd-1b.svg

        ssd1b plan draw my-plan.yaml --out my-plan.svg
    """
    from ssd1b.base.files import write_atomic
    from ssd1b.plan.draw import svg

    write_atomic(out, svg(_find(name)))
    show.say(f"Drawn: {out}")


def _find(name: str) -> LayerPlan:
    """Find a plan by name, or read the file that a path names."""
    if not Path(name).suffix and not Path(name).exists():
        return catalog.find(name)
    from ssd1b.formats.plan_file import find_plan

    return find_plan(name)


def _size(text: str, shape: UNetShape) -> tuple[int, int]:
    """Return (width, height) in pixels as WxH says, or the native size."""
    if not text:
        return (count.native_px(shape),) * 2
    width, _, height = text.lower().replace("×", "x").partition("x")
    try:
        sides = int(width), int(height)
        latent_side(sides[0])
        latent_side(sides[1])
    except ValueError:
        raise RequestError(
            f"'{text}' is not a picture size. Give --size as WIDTHxHEIGHT in pixels, both multiples of 8,"
            " such as 1152x896."
        ) from None
    return sides


def _brief(plan: LayerPlan) -> dict[str, object]:
    shape, px = plan.shape, count.native_px(plan.shape)
    return {
        "name": plan.name,
        "about": plan.about,
        "params": count.parameters(shape),
        "teacher_params": count.parameters(plan.teacher),
        "transformer_blocks": shape.transformer_blocks,
        "resnets": sum(map(shape.resnets, shape.blocks)),
        "flops_1024": count.flops(shape, 1024, 1024),
        "native_px": px,
        "flops_native": count.flops(shape, px, px),
    }


def _facts(plan: LayerPlan, width_px: int, height_px: int) -> dict[str, object]:
    shape = plan.shape
    return {
        **_brief(plan),
        "size": [width_px, height_px],
        "flops": count.flops(shape, height_px, width_px),
        "memory": {dtype: count.memory(shape, dtype) for dtype in ("float32", "float16")},
        "tap_pairs": len(plan.tap_pairs()),
        "parts": count.parts(shape),
        "layers": {site: list(blocks) for site, blocks in plan.kept.items()},
        "residual_blocks": {block: list(kept) for block, kept in plan.resnets.items()},
        "unet_config": plan.unet_config(),
        "provenance": plan.provenance,
    }


def _row(plan: LayerPlan) -> tuple[str, ...]:
    shape, px = plan.shape, count.native_px(plan.shape)
    size = count.parameters(shape)
    return (
        f"[bold]{plan.name}[/]",
        human_count(size),
        f"{size / count.parameters(plan.teacher):.1%}",
        str(shape.transformer_blocks),
        human_flops(count.flops(shape, px, px)),
        plan.about,
    )


def _kept_words(plan: LayerPlan, site: str) -> str:
    if site not in plan.kept:
        return "[dim]removed[/]"
    return _indices(plan.kept[site])


def _indices(kept: tuple[int, ...]) -> str:
    return " ".join(map(str, kept)) or "none"


def _print_kept(plan: LayerPlan) -> None:
    rows = []
    for block in plan.teacher.blocks:
        total = plan.teacher.resnets(block)
        stay = f"{len(plan.resnets[block])} of {total}"
        rows.append((f"[bold]{block}[/] residual blocks", stay, _indices(plan.resnets[block])))
        for site, depth in plan.teacher.depths.items():
            if site.startswith(f"{block}."):
                stay = f"{len(plan.kept.get(site, ()))} of {depth}"
                rows.append((f"  {site.removeprefix(block + '.')}", stay, _kept_words(plan, site)))
    show.table(
        f"{plan.name}: {plan.about}", ("place in the teacher", ">kept", "which (counted from 0)"), rows
    )


def _print_parts(plan: LayerPlan) -> None:
    student, teacher = count.parts(plan.shape), count.parts(plan.teacher)
    rows = []
    for part, before in teacher.items():
        after = student.get(part, 0)
        rows.append((part, f"{before:,}", f"{after:,}", f"{after / before:.0%}"))
    rows.append(("[bold]all[/]", f"{sum(teacher.values()):,}", f"[bold]{sum(student.values()):,}[/]",
                 f"{sum(student.values()) / sum(teacher.values()):.1%}"))  # fmt: skip
    show.table("Parameters", ("part", ">teacher", ">student", ">kept"), rows)


def _print_costs(plan: LayerPlan, width_px: int, height_px: int) -> None:
    shape, out = plan.shape, show.stdout()
    mine, theirs = (count.flops(one, height_px, width_px) for one in (shape, plan.teacher))
    faster = "" if plan.keeps_everything else f", {theirs / mine:.2f} times less than its teacher"
    fp16, fp32 = (human_bytes(count.memory(shape, dtype)) for dtype in ("float16", "float32"))
    blocks = f"{plan.teacher.transformer_blocks} → {shape.transformer_blocks}"
    out.print(f"{blocks} transformer blocks; {len(plan.tap_pairs())} pairs of taps for distillation")
    out.print(f"{human_flops(mine)} for one call at {width_px}×{height_px}{faster}")
    out.print(f"{fp16} of weights in fp16, {fp32} in fp32")
    if plan.provenance:
        out.print(f"\n[dim]{plan.provenance}[/]")


def _print_ledger(plan: LayerPlan, entries: tuple[ledger.Entry, ...]) -> None:
    if not entries:
        return
    total = sum(entry.total for entry in entries)
    rows = [(str(e.count), e.what, str(e.width), f"{e.each:,}", f"{e.total:,}") for e in entries]
    rows.append(("", "[bold]together[/]", "", "", f"[bold]{total:,}[/]"))
    show.table(f"Only in {plan.name}", (">count", "what", ">width", ">parameters each", ">parameters"), rows)


def _diff_facts(*sides: tuple[LayerPlan, tuple[ledger.Entry, ...]]) -> dict[str, object]:
    return {
        "plans": [_brief(plan) for plan, _ in sides],
        "only_in": {
            plan.name: {
                "params": sum(entry.total for entry in entries),
                "cells": [
                    {"count": e.count, "what": e.what, "width": e.width, "each": e.each, "params": e.total}
                    for e in entries
                ],
            }
            for plan, entries in sides
        },
    }
