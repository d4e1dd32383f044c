"""Reads registers, stack and static shared memory out of compiled CUDA code."""

import importlib.util
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

__all__ = ["Resources", "cuobjdump", "mma_kind", "resources", "threads_of"]

_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)")
_THREADS = re.compile(r"\.(?:req|max)ntid\s+(\d+)")
#: By instruction, most particular first.
_MMA = {"wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma", "mma": "mma.sync"}


class Resources(NamedTuple):
    """The largest of the kernels of a binary."""

    registers: int  #: a thread
    stack_bytes: int  #: a thread
    static_smem_bytes: int  #: a CTA


@cache
def cuobjdump() -> str | None:
    """Path of the tool: the one that comes with Triton, or the CUDA toolkit's."""
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        own = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        if own.is_file():
            return str(own)
    return shutil.which("cuobjdump")


def resources(binary: bytes) -> Resources | None:
    """What the kernels of a cubin take; None where there is no ``cuobjdump``.

    Raises:
        subprocess.SubprocessError: the tool does not read it.
    """
    tool = cuobjdump()
    if tool is None:
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        listing = subprocess.run(
            [tool, "--dump-resource-usage", path],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    found = [tuple(map(int, match)) for match in _USAGE.findall(listing)]
    if not found:
        return None
    return Resources(*(max(column) for column in zip(*found, strict=True)))


def mma_kind(ptx: str) -> str:
    """Which kind of tensor-core instruction PTX holds; "" for none."""
    return next((name for name, text in _MMA.items() if text in ptx), "")


def threads_of(ptx: str) -> int | None:
    """Threads of a CTA that PTX is made for, when it says so."""
    match = _THREADS.search(ptx)
    return None if match is None else int(match[1])
