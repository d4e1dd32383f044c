"""Arrays that are written and may not share memory with others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["check_apart"]


def _span(array: Any) -> tuple[int, int]:
    """Addresses from an array's first byte to behind its last."""
    first = int(array.data.ptr)
    reach = sum((n - 1) * abs(int(s)) for n, s in zip(array.shape, array.strides, strict=True))
    return first, first + reach + int(array.dtype.itemsize)


def check_apart(written: Mapping[str, Any], read: Mapping[str, Any]) -> None:
    """Refuse outputs whose addresses meet an input's, or another output's; ``None`` is absent.

    Raises:
        ValueError: the first pair that does.
    """
    named = {**written, **read}
    spans = {name: _span(array) for name, array in named.items() if array is not None}
    for name in written:
        for other, (start, end) in spans.items():
            if other != name and spans[name][0] < end and start < spans[name][1]:
                raise ValueError(
                    f"{name} overlaps {other}: what is written needs memory of its own"
                )
