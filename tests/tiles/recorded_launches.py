"""Launchers of CuPy kernels without a GPU: what they would launch, and that they refuse first."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tiles.kernels.cuda import launches

__all__ = ["HeldKernel", "Recorded", "check_refuses", "record"]


@dataclass
class Recorded:
    """What a launcher asked for; the nth map is handed to kernels as ``map n``."""

    maps: list[tuple[Any, ...]] = field(default_factory=list)
    launches: list[tuple[Any, ...]] = field(default_factory=list)

    def tensor_map(self, *numbers: Any) -> str:
        self.maps.append(numbers)
        return f"map {len(self.maps)}"

    def launch(
        self, kernel: Any, grid: int, threads: int, arguments: Any, smem_bytes: int, stream: Any
    ) -> None:
        self.launches.append((grid, threads, arguments, smem_bytes))


class HeldKernel:
    """A compiled kernel, as far as its shared memory goes; bytes of each launch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, shared_size_bytes: int = 0) -> None:
        self.shared_size_bytes = shared_size_bytes
        self.max_dynamic_shared_size_bytes = 48 * 1024
        self.launched: list[int] = []
        monkeypatch.setattr(launches, "launch_dependent", self._launch)

    def _launch(self, kernel: Any, grid: int, threads: int, held: Any, smem: int, _: Any) -> None:
        assert kernel is self
        assert smem <= self.max_dynamic_shared_size_bytes
        self.launched.append(smem)


def record(monkeypatch: pytest.MonkeyPatch, launcher: ModuleType) -> Recorded:
    """Have a launcher's maps and launches kept, whatever it would compile."""
    found = Recorded()
    monkeypatch.setattr(launcher, "tensor_map", found.tensor_map)
    monkeypatch.setattr(launcher, "compiled_kernel", lambda *key: None)
    monkeypatch.setattr(launches, "launch_dependent", found.launch)
    return found


def check_refuses(
    monkeypatch: pytest.MonkeyPatch,
    launcher: ModuleType,
    arguments: Mapping[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """Launching and compiling refuse these arguments alike, before CuPy is asked for anything."""
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    for call in (launcher.launch, launcher.precompile):
        with pytest.raises(error, match=message):
            call(**arguments)
