"""What launchers look at in CuPy arrays, without CuPy and without memory behind them."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np

ADDRESSES = itertools.count(1 << 30, 1 << 30)


class FakeDevice:
    """A device that is current for nothing."""

    def __init__(self, number: int = 0) -> None:
        self.id = number

    def __enter__(self) -> "FakeDevice":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FakeDevice) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]  # as CuPy's devices compare


def array(
    shape: tuple[int, ...],
    dtype: str,
    *,
    strides: tuple[int, ...] | None = None,
    pointer: int | None = None,
    device: int = 0,
) -> Any:
    """An array, however large; by default it is C-contiguous and has memory of its own."""
    item = np.dtype(dtype).itemsize
    plain = tuple(item * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return SimpleNamespace(
        shape=shape,
        ndim=len(shape),
        dtype=np.dtype(dtype),
        strides=plain if strides is None else strides,
        flags=SimpleNamespace(c_contiguous=strides is None or strides == plain),
        data=SimpleNamespace(ptr=next(ADDRESSES) if pointer is None else pointer),
        device=FakeDevice(device),
    )
