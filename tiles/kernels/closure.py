"""Which files ship with a template: itself and the siblings that it reaches by relative import."""

import ast
import hashlib
import re
import sys
from functools import lru_cache
from pathlib import Path

__all__ = ["DEPENDENCIES", "imported_names", "source_digest", "template_closure"]

#: Third-party packages that emitted code may import.
DEPENDENCIES = frozenset({"torch", "triton", "numpy", "cupy"})

_MODULE = re.compile(r"[a-z_][a-z0-9_]*")
_CUDA_SOURCE = re.compile(r"[A-Za-z0-9_]+\.cu")
_INCLUDE = re.compile(r'^#include "([A-Za-z0-9_]+\.cuh)"$', re.MULTILINE)


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


def _named_sources(tree: ast.AST) -> frozenset[str]:
    """Names of CUDA C++ files that a module writes out."""
    return frozenset(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _CUDA_SOURCE.fullmatch(node.value)
    )


@lru_cache(maxsize=256)
def _parsed(path: Path, content: bytes) -> tuple[ast.AST, frozenset[Path], frozenset[str]]:
    """A module's syntax tree, the siblings and the CUDA C++ files that it names.

    Families share most of their files, and walking a tree takes milliseconds.
    """
    tree = ast.parse(content, filename=str(path))
    return tree, frozenset(_siblings(tree, path)), _named_sources(tree)


def _sources(named: frozenset[str], path: Path) -> set[Path]:
    """CUDA C++ files beside ``path`` that it names or that bear its name, and their headers."""
    found = {path.parent / name for name in named | {f"{path.stem}.cu"}}
    return {header for source in found if source.is_file() for header in _with_headers(source)}


def _with_headers(source: Path) -> set[Path]:
    """A CUDA C++ file and the headers of its folder that it includes, directly or not."""
    included = _INCLUDE.findall(source.read_text(encoding="utf-8"))
    return {source}.union(*(_with_headers(source.with_name(name)) for name in included))


def _reachable(template: Path) -> dict[Path, ast.AST | None]:
    """The template and what it reaches, each with its syntax tree (``None`` for CUDA C++)."""
    files: dict[Path, ast.AST | None] = {}
    pending = {template}
    while pending:
        path = pending.pop()
        if not path.is_file():
            raise ValueError(f"template file {path} does not exist")
        tree, siblings, named = _parsed(path, path.read_bytes())
        files[path] = tree
        pending |= siblings - set(files)
        files |= dict.fromkeys(_sources(named, path))
    return files


def template_closure(template: Path) -> tuple[Path, ...]:
    """The template and everything that ships with it, sorted; all in one folder.

    Raises:
        ValueError: a sibling is missing, or a file imports something other than the standard
            library, torch, triton, numpy, cupy and its siblings.
    """
    files = _reachable(template)
    allowed = DEPENDENCIES | sys.stdlib_module_names
    for path, tree in files.items():
        if tree is not None and (foreign := sorted(imported_names(tree) - allowed)):
            raise ValueError(f"{path}: a template must not import {foreign[0]!r}")
    return tuple(sorted(files))


def source_digest(template: Path) -> str:
    """SHA-256 of a kernel's source: names and contents of the template and what it reaches.

    A measurement belongs to this source and to no other.

    Raises:
        ValueError: a sibling is missing.
    """
    digest = hashlib.sha256()
    for path in sorted(_reachable(template)):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
