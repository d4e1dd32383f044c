"""A CuPy that only remembers."""

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np


class FakeArray:
    """What the launcher looks at in a CuPy array, and where it came from."""

    def __init__(self, shape: Any, dtype: Any, pointer: Any = None, strides: Any = None) -> None:
        self.shape, self.ndim, self.dtype = tuple(shape), len(shape), np.dtype(dtype)
        plain = np.empty(shape, self.dtype).strides
        self.strides = plain if strides is None else strides
        real = [(s, p) for s, p, n in zip(self.strides, plain, shape, strict=True) if n > 1]
        self.flags = SimpleNamespace(c_contiguous=all(s == p for s, p in real))
        self.memory = pointer
        self.data = SimpleNamespace(ptr=4096 if pointer is None else pointer.memory.ptr)
        self.device = _FakeDevice(0)


class _FakeDevice(contextlib.nullcontext[None]):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.id = number
        self.compute_capability = "90"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _FakeDevice) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]


def fake_cupy() -> Any:
    """What emitted packages use of the module ``cupy``."""
    properties = {"name": b"NVIDIA H200"}
    return SimpleNamespace(
        ndarray=FakeArray,
        empty=lambda shape, dtype: FakeArray(shape, dtype),
        cuda=SimpleNamespace(
            UnownedMemory=lambda ptr, size, owner, device: SimpleNamespace(
                ptr=ptr, size=size, owner=owner, device=device
            ),
            MemoryPointer=lambda memory, offset: SimpleNamespace(memory=memory, offset=offset),
            Device=_FakeDevice,
            runtime=SimpleNamespace(getDeviceProperties=lambda device: properties),
        ),
    )
