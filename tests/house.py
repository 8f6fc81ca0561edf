"""The source tree as data: files, modules, functions and who imports whom, all read with `ast`.

Nothing here imports the package; `test_house.py` states the rules.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
PACKAGE = "ssd1b"

# Floor by floor, from the ground up; rooms on one floor do not know each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("base",),
    ("plan",),
    ("models",),
    ("formats", "surgery", "data", "mini"),
    ("distill", "generate"),
    ("evaluate", "serve"),
    ("recipes",),
    ("cli",),
)


@dataclass(frozen=True, slots=True)
class Module:
    """One source file: its dotted name, where it lies, and its syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """The package under `ssd1b` that the file lives in; "" for `ssd1b` itself."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else ""

    @property
    def package(self) -> str:
        """What relative imports in the file start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Import:
    """One import of one module, and whether it runs when the importing module is first loaded."""

    importer: str
    target: str
    line: int
    at_load: bool


def modules() -> list[Module]:
    """Every module of the package, sorted by name."""
    found = []
    for path in sorted((SRC / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path, ast.parse(path.read_text(), str(path))))
    return found


def imports_of(module: Module) -> Iterator[Import]:
    """Every import in a file: at the top, inside functions, for type checkers, and `import_module("...")`."""
    late = _nodes_run_later(module.tree)
    for node in ast.walk(module.tree):
        for target in _targets(node, module.package):
            yield Import(module.name, target, node.lineno, at_load=id(node) not in late)


def functions_of(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Each function and method with its dotted name inside the file."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if not isinstance(child, ast.ClassDef):
                    yield name, child
                yield from walk(child, f"{name}.")
            else:
                yield from walk(child, prefix)

    yield from walk(module.tree, "")


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def _targets(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            start = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*start, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            return [node.args[0].value]
    return []


def _nodes_run_later(tree: ast.Module) -> set[int]:
    """Ids of the nodes inside functions and `if TYPE_CHECKING:` blocks."""
    late: set[int] = set()
    for node in ast.walk(tree):
        checked = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if checked or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            late.update(id(inner) for child in node.body for inner in ast.walk(child))
    return late
