"""Arguments of the Python API, read once; what is wrong is told in one line."""

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiles.intake import shown

__all__ = ["count_of", "items_of", "path_of"]


def items_of(name: str, value: object, one: type | tuple[type, ...], rule: str) -> list[Any]:
    """Items of one type: a single one, a sequence of them, or none.

    Raises:
        TypeError: anything else.
    """
    if value is None:
        return []
    if isinstance(value, one):
        return [value]
    if isinstance(value, bytes | str) or not isinstance(value, Sequence | set | frozenset):
        raise TypeError(f"{name} {shown(value)}: give {rule}")
    items = list(value)
    for item in items:
        if not isinstance(item, one):
            raise TypeError(f"{name} {shown(item)}: give {rule}")
    return items


def path_of(name: str, value: object) -> Path:
    """A path from a text or a path.

    Raises:
        TypeError: neither.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"{name} {shown(value)}: give a path or a text")
    return Path(value)


def count_of(name: str, value: Any) -> int:
    """An integer, NumPy's too; neither a truth value nor a float.

    Raises:
        TypeError: anything else.
    """
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{name} {shown(value)}: give an integer") from None
