"""Layer plans that users write, from YAML.

    name: my-student
    teacher: sdxl                              # a name of the catalog
    mid: resnet                                # full, resnet (its first residual block) or none
    keep:                                      # site: transformer blocks that stay; all others stay whole
      down_blocks.2.attentions.0: [0, 1, 2, 6]
    resnets:                                   # block: residual blocks that stay, as KOALA needs it
      down_blocks.1: [0]

Keys are checked strictly. What a plan means, and whether diffusers can build it, is `plan.layers`' business.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ssd1b.base.errors import PlanError, did_you_mean
from ssd1b.plan import catalog
from ssd1b.plan.layers import LayerPlan, cut
from ssd1b.plan.shape import MID

_MIDDLES = {"none": (), "resnet": (0,)}
_SUFFIXES = (".yaml", ".yml")


class PlanFile(BaseModel):
    """What a plan file may say; every key is explained at the top of this module."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str
    teacher: str
    about: str = ""
    provenance: str = ""
    mid: Literal["none", "resnet", "full"] = "full"
    keep: dict[str, list[int]] = {}
    resnets: dict[str, list[int]] = {}


def find_plan(name_or_path: str) -> LayerPlan:
    """The plan called `name_or_path` in the catalog, or the one in the YAML file at that path.

    Raises:
        PlanError: no such name or file, or the file is not a plan.
    """
    path = Path(name_or_path)
    if path.suffix.lower() in _SUFFIXES or path.is_file():
        return read_plan(path)
    return catalog.find(name_or_path)


def read_plan(path: Path) -> LayerPlan:
    """The plan in a YAML file.

    Raises:
        PlanError: it is not there, is no YAML, has an unknown or wrong key (named), or cannot be built.
    """
    if not path.is_file():
        raise PlanError(f"There is no plan file {path}. `ssd1b plan list` shows the plans that have a name.")
    try:
        record = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(record, dict):
        raise PlanError(f"{path} holds no plan: `name:` and `teacher:` are needed at least.")
    try:
        wanted = PlanFile.model_validate(record)
    except ValidationError as error:
        raise PlanError(f"{path} is not a plan. {_faults(error)}") from error
    return _build(wanted, path)


def _build(wanted: PlanFile, path: Path) -> LayerPlan:
    resnets = {block: tuple(indices) for block, indices in wanted.resnets.items()}
    if wanted.mid in _MIDDLES:
        if MID in resnets:
            raise PlanError(
                f"{path} says twice what stays of the middle: keep either 'mid' or 'resnets.{MID}'."
            )
        resnets[MID] = _MIDDLES[wanted.mid]
    try:
        return cut(
            catalog.find(wanted.teacher).shape,
            name=wanted.name,
            kept={site: tuple(blocks) for site, blocks in wanted.keep.items()},
            resnets=resnets,
            provenance=wanted.provenance or f"Written by hand: {path.name}.",
            about=wanted.about,
        )
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def _faults(error: ValidationError) -> str:
    """Every fault as a sentence that names its key."""
    return " ".join(_sentence(fault["type"], fault["loc"], fault["msg"]) for fault in error.errors())


def _sentence(kind: str, place: tuple[int | str, ...], message: str) -> str:
    key = ".".join(map(str, place))
    if kind == "extra_forbidden":
        known = list(PlanFile.model_fields)
        return f"It has an unknown key '{key}'.{did_you_mean(key, known)} Known keys: {', '.join(known)}."
    if kind == "missing":
        return f"Its key '{key}' is missing."
    return f"Its key '{key}': {message[0].lower()}{message[1:]}."


class _OnceLoader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, where YAML would keep the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.YAMLError(f"the key '{twice[0]}' is written twice")
        return super().construct_mapping(node, deep=deep)
