"""Reading recipes: YAML in, a checked Recipe out, errors that name the key.

Knows files, `like:` (a recipe by its difference to another), `common:` (keys shared by all stages) and
`--set a.b=c`. Does not know what any key means. A key written twice is refused, and 2e-4 is a number, as in
YAML 1.2 (YAML 1.1, which PyYAML reads, takes it for text).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, cast

import yaml
from pydantic import BaseModel, ValidationError

from ssd1b.base.errors import MissingFileError, RecipeError, did_you_mean
from ssd1b.distill.recipe import LossWeights, Recipe, Stage

Tree: TypeAlias = dict[str, object]

SHIPPED = Path(__file__).parent.parent / "recipes"
# How deep a key stands: name, stages.0.name, stages.0.loss.task.
_LEVELS: dict[int, type[BaseModel]] = {1: Recipe, 2: Stage, 3: Stage, 4: LossWeights}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def shipped_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a recipe given by path or by the name of a shipped one."""
    if Path(name).is_file():
        return Path(name)
    stem = Path(name).name.removesuffix(".yaml")
    if (SHIPPED / f"{stem}.yaml").is_file():
        return SHIPPED / f"{stem}.yaml"
    known = shipped_names()
    hint = did_you_mean(stem, known) or f" Shipped recipes: {', '.join(known)}."
    raise MissingFileError(f"There is no recipe '{name}'.{hint}")


def read(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, with `a.b=c` settings put over it.

    Raises:
        RecipeError: not YAML, an unknown key (the nearest known one is named), or a bad value.
    """
    tree = _tree(path)
    for setting in settings:
        _set(tree, setting)
    return parse(_spread_common(tree, path.name), path.name)


def parse(tree: Tree, where: str) -> Recipe:
    """A recipe from plain data; `where` names its origin in errors."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error)}") from None


def _tree(path: Path, above: tuple[Path, ...] = ()) -> Tree:
    if path.resolve() in above:
        raise RecipeError(f"{path} is written as its difference to itself ('like:' leads back to it).")
    try:
        tree = _plain(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} is not a recipe: it should be a mapping with 'name' and 'stages'.")
    return _over_base(cast(Tree, tree), path, above) if "like" in tree else cast(Tree, tree)


def _plain(text: str) -> object:
    """What YAML text says, as plain data.

    Raises:
        yaml.YAMLError: it is not YAML, or has a key twice in one place.
    """
    top = yaml.compose(text, Loader=yaml.SafeLoader)
    if top is None:
        return None
    for node in _nodes(top):
        if isinstance(node, yaml.MappingNode):
            keys = [str(key.value) for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise yaml.YAMLError(f"the key '{twice}' is there twice,\n{node.start_mark}")
        elif isinstance(node, yaml.ScalarNode) and node.style is None and _NUMBER.fullmatch(node.value):
            node.tag = "tag:yaml.org,2002:float"
    return cast(object, yaml.SafeLoader("").construct_document(top))


def _nodes(top: yaml.Node) -> list[yaml.Node]:
    """Every node of a document once; aliases may make a knot."""
    found, todo = {id(top): top}, [top]
    while todo:
        node = todo.pop()
        inner = [one for pair in node.value for one in pair] if isinstance(node, yaml.MappingNode) else []
        inner += node.value if isinstance(node, yaml.SequenceNode) else []
        todo += [one for one in inner if id(one) not in found]
        found |= {id(one): one for one in inner}
    return list(found.values())


def _over_base(tree: Tree, path: Path, above: tuple[Path, ...]) -> Tree:
    """`like: other` takes the other recipe; the remaining keys go over it, `set:` as on the command line."""
    like = str(tree.pop("like"))
    beside = path.parent / f"{like.removesuffix('.yaml')}.yaml"
    base = _tree(beside if beside.is_file() else find(like), (*above, path.resolve()))
    settings = tree.pop("set", {})
    if not isinstance(settings, dict):
        raise RecipeError(f"{path}: 'set' should map keys like stages.0.steps to values.")
    for dotted, value in settings.items():
        _put(base, str(dotted).split("."), value, str(dotted))
    return base | tree


def _set(tree: Tree, setting: str) -> None:
    dotted, equals, text = setting.partition("=")
    if not equals:
        raise RecipeError(f"--set {setting}: write it as key=value, for example stages.0.steps=100.")
    try:
        value = _plain(text)
    except yaml.YAMLError:
        raise RecipeError(f"--set {setting}: what follows the = is not valid YAML.") from None
    _put(tree, dotted.strip().split("."), value, setting)


def _put(node: object, keys: list[str], value: object, setting: str) -> None:
    """Put a value at a dotted place; `stages` may be counted (0) or named, and `*` means every stage."""
    key, rest = keys[0], keys[1:]
    if isinstance(node, list):
        if not rest:
            raise RecipeError(f"{setting}: name a key of the stage, for example stages.{key}.steps.")
        for item in _picked(node, key, setting):
            _put(item, rest, value, setting)
        return
    if not isinstance(node, dict):
        raise RecipeError(f"{setting}: there is nothing below '{key}' to set.")
    if rest:
        _put(node.setdefault(key, {}), rest, value, setting)
    else:
        node[key] = value


def _picked(stages: list[object], key: str, setting: str) -> list[object]:
    if key == "*":
        return stages
    if key.isdigit() and int(key) < len(stages):
        return [stages[int(key)]]
    named: list[object] = [item for item in stages if isinstance(item, dict) and item.get("name") == key]
    if not named:
        raise RecipeError(f"{setting}: there is no stage '{key}'; count them from 0 or use their names.")
    return named


def _spread_common(tree: Tree, where: str) -> Tree:
    """Give every stage the keys of `common`; a stage's own keys win, `loss` and `data` key by key."""
    common, stages = tree.pop("common", {}), tree.get("stages")
    if not isinstance(common, dict):
        raise RecipeError(f"{where}: 'common' should be a mapping of keys shared by all stages.")
    _refuse_unknown(common, where)
    if isinstance(stages, list):
        tree["stages"] = [_merged(common, s) if isinstance(s, dict) else s for s in stages]
    return tree


def _refuse_unknown(common: Tree, where: str) -> None:
    """Name a wrong key of `common` where it stands, before every stage has it."""
    loss = common.get("loss")
    placed: list[tuple[str, Tree, type[BaseModel]]] = [("common", common, Stage)]
    placed += [("common.loss", cast(Tree, loss), LossWeights)] if isinstance(loss, dict) else []
    for place, tree, level in placed:
        for key in tree:
            if key not in level.model_fields:
                hint = did_you_mean(str(key), level.model_fields)
                raise RecipeError(f"{where}: unknown key '{place}.{key}'.{hint}")


def _merged(under: Tree, over: Tree) -> Tree:
    both = {
        key: _merged(cast(Tree, under[key]), cast(Tree, value))
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(under.get(key), dict)
    }
    return under | over | both


def _explain(error: ValidationError) -> str:
    """The first thing that is wrong, in one sentence."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{place}'.{_hint(first['loc'])}"
    if first["type"] == "missing":
        return f"'{place}' is missing."
    message = first["msg"].removeprefix("Value error, ")
    hint = did_you_mean(str(first["input"]), re.findall(r"'([^']+)'", message))
    hint = hint if first["type"] == "literal_error" else ""
    return f"'{place}': {message}.{hint}" if place else f"{message}."


def _hint(place: tuple[int | str, ...]) -> str:
    """The nearest key of the level an unknown key stands on, or the level where it would be right."""
    key, level = str(place[-1]), _LEVELS[min(len(place), 4)]
    if len(place) == 1 and key in Stage.model_fields:
        return f" It belongs to a stage: stages.0.{key}, or common.{key} for all of them."
    return did_you_mean(key, level.model_fields)
