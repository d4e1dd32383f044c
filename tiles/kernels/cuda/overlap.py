"""Arrays that are written and may not share memory with others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["check_apart"]


def _span(array: Any) -> tuple[int, int]:
    """Addresses from an array's first byte to behind its last."""
    first = int(array.data.ptr)
    ways = [(n - 1) * int(s) for n, s in zip(array.shape, array.strides, strict=True)]
    below, above = sum(way for way in ways if way < 0), sum(way for way in ways if way > 0)
    return first + below, first + above + int(array.dtype.itemsize)


def _folded(array: Any) -> bool:
    """True where two elements may share an address: one extent reaches into the next one's step."""
    reach = int(array.dtype.itemsize) - 1
    for stride, extent in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if extent > 1:
            if stride <= reach:
                return True
            reach += (extent - 1) * stride
    return False


def check_apart(written: Mapping[str, Any], read: Mapping[str, Any]) -> None:
    """Refuse outputs whose addresses meet an input's, another output's, or their own elsewhere.

    ``None`` is absent.

    Raises:
        ValueError: the first one, or pair, that does.
    """
    for name, array in written.items():
        if array is not None and _folded(array):
            raise ValueError(
                f"{name} of shape {tuple(array.shape)} has strides {array.strides}: its elements "
                "overlap, what is written needs memory of its own"
            )
    named = {**written, **read}
    spans = {name: _span(array) for name, array in named.items() if array is not None}
    for name in written:
        for other, (start, end) in spans.items():
            if other != name and spans[name][0] < end and start < spans[name][1]:
                raise ValueError(
                    f"{name} overlaps {other}: what is written needs memory of its own"
                )
