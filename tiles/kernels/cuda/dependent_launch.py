"""Programmatic dependent launch: a kernel begins while the one before it on the stream ends.

The kernel says itself from where on it needs what came before (``griddepcontrol.wait``, PTX ISA):
until then it may only set up what is its own.  CuPy's launches cannot ask for it, so the driver is
called here.  In a CUDA graph that captures such launches the edge between both is programmatic.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

__all__ = ["launch_dependent", "packed"]

# cuda.h: CUlaunchAttributeID, CUresult.
_PROGRAMMATIC_STREAM_SERIALIZATION = 6
_ERROR_INVALID_CONTEXT = 201


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: its value is a union of 64 bytes, of which this one takes an int."""

    _fields_ = (
        ("id", ctypes.c_int),
        ("padding", ctypes.c_char * 4),
        ("value", ctypes.c_int),
        ("rest", ctypes.c_char * 60),
    )


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        *((name, ctypes.c_uint) for name in ("grid", "grid_y", "grid_z")),
        *((name, ctypes.c_uint) for name in ("threads", "threads_y", "threads_z")),
        ("smem_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    )


_DEPENDENT = ctypes.pointer(_Attribute(id=_PROGRAMMATIC_STREAM_SERIALIZATION, value=1))


@cache
def _attributes(device: int) -> int:
    """Attributes of a launch there: before Hopper (capability 9.0) a kernel begins when it may."""
    import cupy

    return int(int(cupy.cuda.Device(device).compute_capability) >= 90)


@cache
def _launcher() -> Any:
    """``cuLaunchKernelEx`` of the installed driver."""
    launch = ctypes.CDLL("libcuda.so.1").cuLaunchKernelEx
    launch.restype = ctypes.c_int
    return launch


def packed(arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """A kernel's arguments as the driver takes them.

    Args:
        arguments: NumPy scalars and records, each as wide as the kernel's parameter.
    Returns:
        the memory that holds them, and a pointer to each.
    """
    held = ctypes.create_string_buffer(b"".join(arguments))
    at, pointers = ctypes.addressof(held), []
    for argument in arguments:
        pointers.append(at)
        at += argument.nbytes
    return held, (ctypes.c_void_p * len(pointers))(*pointers)


def launch_dependent(
    kernel: Any, grid: int, threads: int, arguments: tuple[Any, ...], smem_bytes: int, stream: Any
) -> None:
    """Launch ``grid`` CTAs that may begin before the launch before them has ended.

    Args:
        kernel: a CuPy function that waits by itself for what came before; a GPU before Hopper
            begins it when that has ended.
        arguments: NumPy scalars and records.
        stream: a CuPy stream; None is CuPy's current one.
    Raises:
        CUDADriverError: the driver refuses.
    """
    import cupy

    stream = cupy.cuda.get_current_stream() if stream is None else stream
    held, pointers = packed(arguments)
    config = _Config(
        *(grid, 1, 1, threads, 1, 1, smem_bytes, stream.ptr),
        *(_DEPENDENT, _attributes(cupy.cuda.runtime.getDevice())),
    )
    call = (ctypes.byref(config), ctypes.c_void_p(kernel.kernel.ptr), pointers, None)
    error = _launcher()(*call)
    if error == _ERROR_INVALID_CONTEXT:  # a thread that has not talked to the device yet
        cupy.cuda.runtime.memGetInfo()
        error = _launcher()(*call)
    if error:
        raise cupy.cuda.driver.CUDADriverError(error)
    del held  # until here the driver reads it
