"""A CuPy whose device remembers launches and runs nothing: microbenchmarks are rehearsed on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np


class FakeArray:
    """Device memory that is counted, not taken; what a kernel writes reads as ones."""

    def __init__(self, device: "FakeDevice", size: int, dtype: Any) -> None:
        self.size, self.dtype = size, np.dtype(dtype)
        device.allocated += self.nbytes
        device.most_allocated = max(device.most_allocated, device.allocated)
        self._device = device

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def fill(self, value: int) -> None: ...

    def __del__(self) -> None:
        self._device.allocated -= self.nbytes


@dataclass(frozen=True)
class Memory:
    """What a launch remembers of an array, which may be gone since."""

    nbytes: int


@dataclass
class Launch:
    """One kernel launch."""

    name: str
    defines: tuple[str, ...]
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    smem: int


@dataclass
class FakeDevice:
    """A device's figures, and what was launched on it."""

    capability: str
    attributes: Mapping[str, int]
    free_bytes: int
    allocated: int = 0
    most_allocated: int = 0
    launches: list[Launch] = field(default_factory=list)

    @property
    def compute_capability(self) -> str:
        return self.capability

    def module(self, path: Any, options: tuple[str, ...]) -> Any:
        """In place of a compiled module."""

        def function(name: str) -> Any:
            return _Kernel(self, name, options)

        return SimpleNamespace(get_function=function)


class _Kernel:
    def __init__(self, device: FakeDevice, name: str, options: tuple[str, ...]) -> None:
        self._device, self.name, self._options = device, name, options
        self.max_dynamic_shared_size_bytes = 48 * 1024
        self.kernel = SimpleNamespace(ptr=4096)

    def __call__(self, grid: Any, block: Any, arguments: Any, *, shared_mem: int = 0) -> None:
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        defines = tuple(one for one in self._options if one.startswith("-D"))
        seen = tuple(Memory(a.nbytes) if isinstance(a, FakeArray) else a for a in arguments)
        self._device.launches.append(
            Launch(self.name, defines, tuple(grid), tuple(block), seen, shared_mem)
        )


class _Event:
    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class _Stream:
    ptr = 0

    def __init__(self, non_blocking: bool = False) -> None: ...

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None: ...

    def begin_capture(self) -> None: ...

    def end_capture(self) -> Any:
        return SimpleNamespace(launch=lambda stream: None)


def fake_cupy(device: FakeDevice) -> Any:
    """What ``tuning.microbench.device`` uses of the module ``cupy``."""

    def array(size: int, dtype: Any) -> FakeArray:
        return FakeArray(device, int(size), dtype)

    return SimpleNamespace(
        uint8=np.uint8,
        uint32=np.uint32,
        uint64=np.uint64,
        empty=array,
        zeros=array,
        empty_like=lambda one: array(one.size, one.dtype),
        asarray=lambda one: array(one.size, one.dtype),
        asnumpy=lambda one: np.arange(1, one.size + 1, dtype=one.dtype),
        get_default_memory_pool=lambda: SimpleNamespace(free_all_blocks=lambda: None),
        cuda=SimpleNamespace(
            Device=lambda: device,
            Event=_Event,
            Stream=_Stream,
            get_current_stream=_Stream,
            get_elapsed_time=lambda start, end: 1.0,
            driver=SimpleNamespace(launchKernel=lambda *_: None),
            runtime=SimpleNamespace(memGetInfo=lambda: (device.free_bytes, device.free_bytes)),
        ),
    )
