"""Kernels of a device: compiled, held against its shared memory, launched on a stream."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from .dependent_launch import launch_dependent
from .modules import load

__all__ = [
    "allow_shared_memory",
    "check_shared_memory",
    "functions",
    "multiprocessors",
    "run",
    "shared_memory_bytes",
]


@cache
def multiprocessors(device: int) -> int:
    """Multiprocessors of a device."""
    return _attribute(device, "MultiProcessorCount")


@cache
def shared_memory_bytes(device: int) -> int:
    """Shared memory that a CTA can have on a device, where the kernel asks for it."""
    return _attribute(device, "MaxSharedMemoryPerBlockOptin")


def _attribute(device: int, name: str) -> int:
    import cupy

    return int(cupy.cuda.Device(device).attributes[name])


@cache
def functions(device: int, source: str, options: tuple[str, ...], names: tuple[str, ...]) -> Any:
    """Kernels of a source file by name; ``device`` is the current device, for which CuPy compiles.

    Raises:
        ImportError: CuPy is missing.
    """
    module = load(Path(__file__).with_name(source), options)
    return tuple(module.get_function(name) for name in names)


def check_shared_memory(device: int, smem_bytes: int, advice: str) -> None:
    """Refuse a CTA that the device has no shared memory for.

    Args:
        smem_bytes: static and dynamic together.
        advice: what takes it, and what to change.
    Raises:
        ValueError: both sizes and the advice.
    """
    most = shared_memory_bytes(device)
    if smem_bytes > most:
        raise ValueError(
            f"{smem_bytes} bytes of shared memory for a CTA, the device has {most}: {advice}"
        )


def allow_shared_memory(kernel: Any, device: int, smem_bytes: int, advice: str) -> None:
    """Let a kernel be launched with so much dynamic shared memory.

    Raises:
        ValueError: as :func:`check_shared_memory`, with what the kernel has of its own.
    """
    check_shared_memory(device, kernel.shared_size_bytes + smem_bytes, advice)
    if kernel.max_dynamic_shared_size_bytes < smem_bytes:
        kernel.max_dynamic_shared_size_bytes = smem_bytes


def run(
    kernel: Any,
    grid: int,
    threads: int,
    arguments: tuple[Any, ...],
    *,
    smem_bytes: int = 0,
    stream: Any = None,
    cooperative: bool = False,
) -> None:
    """Launch ``grid`` CTAs on a CuPy stream, or on CuPy's current one.

    They may begin before the launch before them has ended: every kernel of this folder waits for it
    by itself (``follow_launch.cuh``) before it touches memory.

    Args:
        arguments: NumPy scalars and records, as wide as the kernel's parameters.
        cooperative: all at once or not at all, for CTAs that wait for one another; these begin when
            the launch before has ended.
    """
    if not cooperative:
        launch_dependent(kernel, grid, threads, arguments, smem_bytes, stream)
        return
    # Of a module without CUDA's own grid groups, which would take a linker, RawKernel does not say
    # so; its function does.
    options = {"shared_mem": smem_bytes, "enable_cooperative_groups": True}
    with nullcontext() if stream is None else stream:
        kernel.kernel((grid,), (threads,), arguments, **options)
