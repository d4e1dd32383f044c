"""Which files ship with a template: itself and the siblings that it reaches by relative import."""

import ast
import re
import sys
from pathlib import Path

__all__ = ["DEPENDENCIES", "imported_names", "template_closure"]

#: Third-party packages that emitted code may import.
DEPENDENCIES = frozenset({"torch", "triton", "numpy", "cupy"})

_MODULE = re.compile(r"[a-z_][a-z0-9_]*")
_CUDA_SOURCE = re.compile(r"[A-Za-z0-9_]+\.(cu|cuh)")


def imported_names(tree: ast.AST) -> set[str]:
    """Top-level packages that a module imports absolutely, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def _siblings(tree: ast.AST, path: Path) -> set[Path]:
    """Python files that ``path`` imports relatively."""
    found: set[Path] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        modules = [node.module] if node.module else [alias.name for alias in node.names]
        for module in modules:
            if node.level > 1 or not _MODULE.fullmatch(module):
                raise ValueError(
                    f"{path}: a template imports only siblings of its own folder, "
                    f"not {'.' * node.level}{module}"
                )
            found.add(path.parent / f"{module}.py")
    return found


def _sources(tree: ast.AST, path: Path) -> set[Path]:
    """CUDA C++ files beside ``path`` that it names, or that bear its name."""
    named = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _CUDA_SOURCE.fullmatch(node.value)
    }
    return {
        path.parent / name for name in named | {f"{path.stem}.cu"} if (path.parent / name).is_file()
    }


def template_closure(template: Path) -> tuple[Path, ...]:
    """The template and everything that ships with it, sorted; all in one folder.

    Raises:
        ValueError: a sibling is missing, or a file imports something other than the standard
            library, torch, triton, numpy, cupy and its siblings.
    """
    files: set[Path] = set()
    pending = {template}
    while pending:
        path = pending.pop()
        if not path.is_file():
            raise ValueError(f"template file {path} does not exist")
        files.add(path)
        tree = ast.parse(path.read_bytes(), filename=str(path))
        allowed = DEPENDENCIES | sys.stdlib_module_names
        if foreign := sorted(imported_names(tree) - allowed):
            raise ValueError(f"{path}: a template must not import {foreign[0]!r}")
        pending |= _siblings(tree, path) - files
        files |= _sources(tree, path)
    return tuple(sorted(files))
