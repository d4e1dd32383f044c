"""Docstring and source of Python functions, and what else docstrings of packages label."""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

from bench.accuracy.corpus import Corpus, Labelled, draw, origin, package_folder

__all__ = ["areas", "functions", "notes", "summary"]

#: Folders whose code belongs to others, or whose docstrings say nothing.
_PASSED_OVER = frozenset(
    ("site-packages", "dist-packages", "_vendor", "vendored", "externals", "idlelib", "turtledemo")
)
_DOCUMENTED = (ast.FunctionDef, ast.ClassDef)
_WORDS, _MOST_WORDS = 6, 60
_LEAST_LINES = 5
#: Of one file at most: neighbours in a file resemble one another.
_OF_A_FILE = 3


def _modules(
    folder: Path, seed: int, *, holding: str = ""
) -> Iterator[tuple[str, str, ast.Module]]:
    """Relative path, text and tree of a package's modules, in an order drawn from their names.

    Args:
        holding: only modules whose text holds this.
    """
    paths = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*.py")}
    for name in sorted(paths, key=lambda name: draw(name, seed)):
        parts = name.split("/")
        if _PASSED_OVER & set(parts) or any(
            part.startswith(("test", "conftest")) for part in parts
        ):
            continue
        try:
            text = paths[name].read_text(encoding="utf-8")
            if holding not in text:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes, of others
                tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue  # a template, or a file that is wrong on purpose
        yield name, text, tree


def summary(docstring: str) -> str | None:
    """The first paragraph in one line; ``None`` where it is no sentence to search by."""
    first = " ".join(docstring.strip().split("\n\n")[0].split())
    words = len(first.split())
    return first if _WORDS <= words <= _MOST_WORDS and first.isascii() else None


def _body(node: ast.FunctionDef, lines: list[str]) -> str | None:
    """A function's source without its docstring; ``None`` where little is left."""
    doc = node.body[0]
    kept = lines[node.lineno - 1 : doc.lineno - 1] + lines[doc.end_lineno : node.end_lineno]
    if len([line for line in kept if line.strip()]) < _LEAST_LINES:
        return None
    return textwrap.dedent("\n".join(kept)).strip()


def _documented(folder: Path, seed: int) -> Iterator[Labelled]:
    for name, text, tree in _modules(folder, seed):
        lines = text.splitlines()
        found = []
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            query = summary(ast.get_docstring(node) or "")
            answer = query and _body(node, lines)
            if query and answer:
                found.append((f"{name}:{node.lineno}", Labelled(query=query, answer=answer)))
        found.sort(key=lambda one: draw(one[0], seed))
        yield from (one for _, one in found[:_OF_A_FILE])


def functions(package: str, *, pool: int = 256, seed: int = 0) -> Corpus:
    """A docstring's first paragraph, and the function's source with the docstring cut out.

    Args:
        package: an import name, or "stdlib".
    """
    found = _documented(package_folder(package), seed)
    return Corpus.of(f"functions-{package}", found, origin(package), pool=pool)


_NOTES = re.compile(r"^Notes\n-----\n(.*?)(?=^\w[\w ]*\n-{3,}\n|\Z)", re.MULTILINE | re.DOTALL)


def notes(*packages: str, pool: int = 256, seed: int = 0) -> Corpus:
    """A docstring's first paragraph, and its section "Notes" (the numpydoc standard)."""

    found: list[Labelled] = []
    for package in packages:
        of_package: list[Labelled] = []
        for _, _, tree in _modules(package_folder(package), seed, holding="Notes\n"):
            texts = [
                ast.get_docstring(n) or "" for n in ast.walk(tree) if isinstance(n, _DOCUMENTED)
            ]
            of_package += [one for text in texts if (one := _noted(text)) is not None][:_OF_A_FILE]
            if len(of_package) >= pool // 2:
                break
        found += of_package
    found.sort(key=lambda one: draw(one.query, seed))  # no package fills the pool alone
    return Corpus.of("notes", found, origin(*packages), pool=pool)


def _noted(docstring: str) -> Labelled | None:
    query, section = summary(docstring), _NOTES.search(docstring)
    if query is None or section is None or len(section[1].split()) < 20:
        return None
    return Labelled(query=query, answer=" ".join(section[1].split()))


def _first_paragraphs(tree: ast.Module) -> list[str]:
    nodes = (n for n in ast.walk(tree) if isinstance(n, _DOCUMENTED))
    texts = (summary(ast.get_docstring(n) or "") for n in nodes if not n.name.startswith("_"))
    return [text for text in texts if text]


def areas(package: str, names: tuple[str, ...], *, most: int) -> dict[str, list[str]]:
    """First paragraphs of docstrings by the subpackage that they come from.

    Args:
        names: subpackages, e.g. "stats" of scipy.
        most: of each.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        kept: dict[str, None] = {}
        for _, _, tree in _modules(package_folder(package) / name, 0):
            kept |= dict.fromkeys(_first_paragraphs(tree))
            if len(kept) >= most:
                break
        found[name] = list(kept)[:most]
    return found
