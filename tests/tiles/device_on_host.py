"""A device that is none: its memory, and kernels of CUDA C++ that a CPU runs (``cuda_on_host.h``).

What a kernel loads and stores is looked at, see ``watched_memory.cpp``.
"""

import ctypes
import mmap
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tiles.kernels.cuda import dataflow_blocks

__all__ = ["HostArray", "compile_library", "complaint", "device_memory", "struct_bytes"]

HERE = Path(__file__).parent
FOLDER = Path(dataflow_blocks.__file__).parent
#: Between arrays, and between the shared memory of CTAs, lies some that is nobody's.
APART = 1 << 16
#: Shared memory of eight CTAs, as ``threads_on_host.h`` has it.
SHARED_BYTES = 8 * ((227 << 10) + APART)
#: Every kernel's file begins and ends with these.
BEGIN = '#include "cuda_on_host.h"\n'
END = """
extern "C" void set_shared(unsigned char *memory) { host::all_shared = memory; }
"""
_WARNINGS = "-Wall -Werror -Wno-unknown-pragmas -Wno-unused-function -Wno-unused-variable"


class HostArray:
    """What a launcher looks at in a CuPy array, in a NumPy one."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape, self.dtype, self.strides = array.shape, array.dtype, array.strides
        self.flags, self.device = array.flags, "host"
        self.data = type("Memory", (), {"ptr": array.ctypes.data})


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def _compile(text: str, path: Path, *words: str) -> None:
    command = ["g++", "-x", "c++", "-", "-O1", "-fPIC", f"-I{HERE}", f"-I{FOLDER}", *words]
    subprocess.run([*command, "-o", str(path)], input=text, text=True, check=True, timeout=900)


@cache
def _watcher() -> Path:
    path = Path(_folder().name) / "watched_memory.o"
    _compile((HERE / "watched_memory.cpp").read_text(), path, "-c", *_WARNINGS.split())
    return path


@cache
def compile_library(text: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """A kernel for the CPU; warnings are errors, so that the sources stay clean."""
    path = Path(_folder().name) / f"kernel{abs(hash((text, options)))}"
    watched = ("-fsanitize=thread", "-fno-strict-aliasing", "-frounding-math")
    _compile(
        BEGIN + text + END, path.with_suffix(".o"), "-c", *watched, *_WARNINGS.split(), *options
    )
    # Without the sanitizer's flag, whose library would come along.
    objects = [str(path.with_suffix(".o")), str(_watcher())]
    command = ["g++", "-shared", *objects, "-o", str(path.with_suffix(".so"))]
    subprocess.run(command, check=True, timeout=900)
    made = ctypes.CDLL(str(path.with_suffix(".so")))
    made.watched_complaint.restype = ctypes.c_char_p
    return made


def struct_bytes(parameters: Any) -> ctypes.Array[ctypes.c_char]:
    """A kernel's struct of parameters."""
    return ctypes.create_string_buffer(np.array(parameters).tobytes())


def _span(array: np.ndarray) -> int:
    """Bytes from an array's first element to behind its last one."""
    steps = zip(array.shape, array.strides, strict=True)
    return int(sum((extent - 1) * stride for extent, stride in steps) + array.itemsize)


@contextmanager
def device_memory(
    arrays: Mapping[str, np.ndarray], *, offsets: Mapping[str, int] | None = None
) -> Iterator[tuple[dict[str, np.ndarray], Any]]:
    """Arrays on the device, copied there and back again.

    Args:
        offsets: bytes behind a multiple of 256 at which an array begins; 0 for others.
    Yields:
        The arrays there, and a function that tells a library of them.
    """
    moved = offsets or {}
    sizes = {name: _span(array) for name, array in arrays.items()}
    room = sum(size + 2 * APART for size in sizes.values()) + APART
    memory = mmap.mmap(-1, -(-(room + SHARED_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE)
    whole = np.frombuffer(memory, np.uint8)
    placed: dict[str, np.ndarray] = {}
    at = SHARED_BYTES + APART
    for name, array in arrays.items():
        at = -(-at // 256) * 256 + moved.get(name, 0)
        placed[name] = np.ndarray(
            array.shape, array.dtype, buffer=whole, offset=at, strides=array.strides
        )
        placed[name][...] = array
        at += sizes[name] + APART

    def tell(made: ctypes.CDLL) -> None:
        made.watch_memory(ctypes.c_void_p(whole.ctypes.data), ctypes.c_uint64(len(whole)))
        made.set_shared(ctypes.c_void_p(whole.ctypes.data))
        for name, array in placed.items():
            start = ctypes.c_void_p(array.ctypes.data)
            made.watch_array(name.encode(), start, ctypes.c_uint64(sizes[name]))

    yield placed, tell
    for name, array in arrays.items():
        array[...] = placed[name]


def complaint(made: ctypes.CDLL) -> str:
    """What was wrong with what a library's kernels did; nothing as a rule."""
    return bytes(made.watched_complaint()).decode()
