"""The command line of a module of bench, as its record keeps it."""

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

__all__ = ["recorded"]

#: An option and its value, or a value alone, where the value leads out of the working folder.
_OUTSIDE = re.compile(r"(--[\w-]+=)?((?:/|~|\.\./).*)", re.S)


def recorded(module: str, given: Sequence[str]) -> str:
    """A line to run again: files outside of the working folder are told by their names alone.

    >>> recorded("bench.block", ["--output", "/results/block.json", "--gpu", "h200"])
    'python -m bench.block --output block.json --gpu h200'
    """
    return shlex.join(["python", "-m", module, *map(_told, given)])


def _told(word: str) -> str:
    found = _OUTSIDE.fullmatch(word)
    if found is None:
        return word
    option, path = found.groups()
    return f"{option or ''}{PurePosixPath(path).name}"
