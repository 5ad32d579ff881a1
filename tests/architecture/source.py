"""The source tree as data: which files there are, what each imports. Read with `ast`, so nothing is executed."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("service", "gram_client", "training", "benchmarks", "deploy", "examples")
ABOVE = {"gram_client": "client"}
"""Folders that hold a package of another distribution."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, where it lies, its text."""

    name: str
    path: Path
    text: str

    @property
    def tree(self) -> ast.Module:
        return _parse(self.text)

    @property
    def functions(self) -> Iterator[Function]:
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield node


@dataclass(frozen=True)
class Import:
    """``module`` imports ``target`` (a submodule where it is one, not the package it was taken from) on ``line``."""

    module: str
    target: str
    line: int


@cache
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


def modules(root: Path = ROOT, packages: tuple[str, ...] = PACKAGES) -> list[Module]:
    """Every Python file of the packages, sorted by name."""
    found = []
    for package in packages:
        above = root / ABOVE.get(package, "")
        for path in (above / package).rglob("*.py"):
            parts = path.relative_to(above).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, path, path.read_text(encoding="utf-8")))
    return sorted(found, key=lambda module: module.name)


def imports(tree: list[Module]) -> list[Import]:
    """Every import in the tree, deferred and type-checking ones too. Relative imports are ruff's to refuse (TID252)."""
    names = {module.name for module in tree}
    found = []
    for module in tree:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [target if target in names else node.module for target in inside]
            else:
                continue
            found += [Import(module.name, target, node.lineno) for target in dict.fromkeys(targets)]
    return found


def is_within(name: str, room: str) -> bool:
    """``service.judging.gram`` lies within ``service.judging``; ``service.judgment`` does not."""
    return name == room or name.startswith(room + ".")


def is_standard(library: str) -> bool:
    return library in sys.stdlib_module_names
