"""The rules of the house, checked on the code itself: floors, lengths, names, imports."""

from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import itertools
import re
import resource
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
from tests.house import (
    FLOORS,
    PACKAGE,
    ROOT,
    SRC,
    Import,
    Module,
    body_lines,
    functions_of,
    imports_of,
    modules,
)

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
MAX_ARGUMENTS = 6
HELP_SECONDS = 0.5
FORBIDDEN_NAMES = {"util", "utils", "common", "helper", "helpers", "misc", "manager", "managers"}
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft", "scipy", "openvino", "fastapi", "ray"}

# "path" or "path::function" -> why the limit does not fit it. Only for tables of data.
EXEMPT: dict[str, str] = {}

FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = modules()
NAMES = {module.name for module in MODULES}


def own_imports() -> list[tuple[Module, Import, str]]:
    """Every import of the package by the package: importer, import, and the room it reaches into."""
    found = []
    for module in MODULES:
        for each in imports_of(module):
            parts = each.target.split(".")
            if parts[0] == PACKAGE:
                found.append((module, each, parts[1] if len(parts) > 1 else ""))
    return found


def drawing() -> str:
    """The floors as the code's own imports draw them, top floor first."""
    reached = defaultdict(set)
    for module, _, room in own_imports():
        if room != module.room:
            reached[module.room].add(room)
    lines = []
    for number in reversed(range(len(FLOORS))):
        for room in FLOORS[number]:
            lines.append(f"  floor {number}  {room:9} -> {', '.join(sorted(reached[room])) or 'nothing'}")
    return "\n".join(lines)


def loaded_module(target: str) -> str | None:
    """The module an import target loads: the target itself, or the module a name is taken from."""
    while target and target not in NAMES:
        target = target.rpartition(".")[0]
    return target or None


def test_every_room_stands_on_a_floor() -> None:
    strangers = {module.room for module in MODULES if module.room} - set(FLOOR_OF) - {"__main__"}
    assert not strangers, f"these rooms stand on no floor, see architecture: {sorted(strangers)}"


def test_imports_go_down_only() -> None:
    wrong = []
    for module, each, room in own_imports():
        if room == module.room or room not in FLOOR_OF or module.room == "__main__":
            continue
        if module.name == PACKAGE and not each.at_load:
            continue  # the front door names what it hands out, for type checkers, and loads none of it
        here, there = FLOOR_OF.get(module.room, -1), FLOOR_OF[room]
        if there >= here:
            way = "sideways" if there == here else "up"
            wrong.append(f"{module.path.relative_to(ROOT)}:{each.line} reaches {way} to {each.target}")
    assert not wrong, "\n".join([*wrong, "the house as it stands:", drawing()])


def test_no_two_modules_need_each_other_to_load() -> None:
    graph: dict[str, set[str]] = {module.name: set() for module in MODULES}
    for module, each, _ in own_imports():
        target = loaded_module(each.target)
        if each.at_load and target not in (None, module.name) and not module.name.startswith(f"{target}."):
            graph[module.name].add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail("these modules import each other in a circle: " + " -> ".join(error.args[1]))


def test_no_file_is_longer_than_one_can_hold_in_mind() -> None:
    long = {}
    for module in MODULES:
        lines = len(module.path.read_text().splitlines())
        where = str(module.path.relative_to(ROOT))
        if lines > MAX_FILE_LINES and where not in EXEMPT:
            long[where] = lines
    assert not long, f"files over {MAX_FILE_LINES} lines: {long}"


def _lengths() -> dict[str, int]:
    """Lines by "path::function". Of a verb only the body counts: signature and docstring are its help."""
    lengths = {}
    for module in MODULES:
        for name, function in functions_of(module):
            lines = function.end_lineno - function.lineno + 1
            where = f"{module.path.relative_to(ROOT)}::{name}"
            lengths[where] = body_lines(function) if module.room == "cli" else lines
    return lengths


def test_every_function_fits_on_a_screen() -> None:
    long = {k: n for k, n in _lengths().items() if n > MAX_FUNCTION_LINES and k not in EXEMPT}
    assert not long, f"functions over {MAX_FUNCTION_LINES} lines: {long}"


def test_no_function_takes_more_arguments_than_one_can_hold_in_mind() -> None:
    many = {}
    for module in MODULES:
        for name, function in functions_of(module):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            counted = [a for a in arguments if a.arg not in ("self", "cls") and not _is_an_option(a)]
            if len(counted) > MAX_ARGUMENTS:
                many[f"{module.path.relative_to(ROOT)}::{name}"] = len(counted)
    many = {where: n for where, n in many.items() if where not in EXEMPT}
    assert not many, f"functions with more than {MAX_ARGUMENTS} arguments: {many}"


def _is_an_option(argument: ast.arg) -> bool:
    """Whether an argument is a command line option (`Annotated[...]`): such a signature is a table."""
    return argument.annotation is not None and "Annotated" in ast.unparse(argument.annotation)


def test_no_exemption_outlives_its_need() -> None:
    files = {str(module.path.relative_to(ROOT)) for module in MODULES}
    stale = sorted(set(EXEMPT) - files - set(_lengths()))
    assert not stale, f"exempted, but gone: {stale}"
    assert all(EXEMPT.values()), "an exemption wants a reason"


def test_every_module_has_a_name_that_says_something() -> None:
    vague = [module.name for module in MODULES if FORBIDDEN_NAMES & set(module.name.split("."))]
    assert not vague, f"names that say nothing: {vague}"


def test_every_package_that_the_code_imports_is_declared() -> None:
    """A fresh machine installs what pyproject.toml says, not what lies in somebody's environment."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {_canonical(re.match(r"[A-Za-z0-9._-]+", one)[0]) for one in wanted}
    distributions = importlib.metadata.packages_distributions()
    missing = set()
    for module in MODULES:
        for each in imports_of(module):
            top = each.target.split(".")[0]
            if top == PACKAGE or top in sys.stdlib_module_names:
                continue
            if not {_canonical(name) for name in distributions.get(top, [top])} & declared:
                missing.add(f"{top} (in {module.name})")
    assert not missing, f"imported, but not in pyproject.toml: {sorted(missing)}"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_declared_package_is_pinned() -> None:
    pinned = {
        _canonical(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    loose = [one for one in wanted if _canonical(re.match(r"[A-Za-z0-9._-]+", one)[0]) not in pinned]
    assert not loose, f"not pinned in constraints.txt: {loose}"


@pytest.mark.parametrize("room", ["base", "plan"])
def test_the_lowest_floors_need_the_standard_library_only(room: str) -> None:
    foreign = [
        f"{module.name}:{each.line} imports {each.target}"
        for module in MODULES
        if module.room == room
        for each in imports_of(module)
        if each.at_load and each.target.split(".")[0] not in {PACKAGE, *sys.stdlib_module_names}
    ]
    assert not foreign, "\n".join(foreign)


def test_the_command_line_loads_without_torch() -> None:
    verbs = sorted(module.name for module in MODULES if module.room == "cli")
    code = f"import sys, {', '.join(verbs)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = HEAVY & set(done.stdout.split())
    assert not heavy, f"importing ssd1b.cli loads {sorted(heavy)}: import them inside the command"


def test_the_package_itself_loads_nothing_and_says_what_it_hands_out() -> None:
    """Whoever imports `ssd1b` for one of its names should not pay for the others."""
    code = "import sys; before = {*sys.modules}; import ssd1b; print(*({*sys.modules} - before), *dir(ssd1b))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = set(done.stdout.split())
    loaded = {name for name in told if name.startswith(f"{PACKAGE}.")}
    assert not loaded and not told & HEAVY, f"importing {PACKAGE} loads {sorted(loaded | told & HEAVY)}"
    assert {"load", "wrap", "Pipeline", "UserError"} <= told


def test_help_answers_in_half_a_second() -> None:
    """Processor time, the best of three: a busy machine is not the command's fault."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([Path(sys.executable).with_name("ssd1b"), "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) < HELP_SECONDS, f"ssd1b --help took {min(seconds):.2f} s of processor time"


def test_nothing_loads_a_pickle() -> None:
    """Weights come as safetensors; torch.load only for our own files, and only as plain tensors."""
    wrong = []
    for module in MODULES:
        imports = imports_of(module)
        wrong += [f"{module.name}:{i.line} imports {i.target}" for i in imports if "pickle" in i.target]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if given.get("weights_only") != "True":
                    wrong.append(f"{module.name}:{node.lineno} torch.load without weights_only=True")
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_open() -> None:
    """No notes to self, no stubs, no tests switched off."""
    marks = ("TO" + "DO", "FIX" + "ME", "raise Not" + "Implemented", r"pytest\.(mark\.)?ski" + "p")
    open_ends = re.compile("|".join(marks))
    found = []
    for folder in (SRC, ROOT / "tests", ROOT / "tools", ROOT / "scripts"):
        for path in sorted(folder.rglob("*.py")):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if open_ends.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)
