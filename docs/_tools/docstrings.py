"""Public modules, classes, functions and methods that lack a docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def modules(package: Path) -> list[str]:
    """Return the dotted names of all modules of a package, sorted, with that of the package first."""
    files = (path.relative_to(package.parent).with_suffix("") for path in package.rglob("*.py"))
    return sorted(".".join(file.parts).removesuffix(".__init__") for file in files)


def missing_docstrings(package: Path) -> list[str]:
    """Return the dotted names of public objects without a docstring, sorted.

    Private names, which begin with an underscore, need none. Neither do methods that replace an inherited one of a
    class outside the package, such as `__call__`.
    """
    found: list[str] = []
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [] if ast.get_docstring(tree) else [name]
        found += _undocumented(tree, name)
    return sorted(found)


def _undocumented(tree: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            if not ast.get_docstring(node):
                yield f"{name}.{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from _undocumented(node, f"{name}.{node.name}")
