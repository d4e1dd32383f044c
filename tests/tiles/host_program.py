"""Kernels of CUDA C++ as programs of the CPU: g++ makes them, files hold operands and result.

A job is int64 numbers of the kernel's own, the sizes of its parts, and the parts: what
``hopper_job_on_host.h`` reads.
"""

import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np

from tiles.kernels.cuda import modules

__all__ = ["answer", "descriptor", "made", "new_folder"]

HERE = Path(__file__).parent
CUDA = Path(modules.__file__).parent
#: The flags of the programs so far.
_COMPILED: set[tuple[str, ...]] = set()
_DESCRIPTOR = re.compile(r"^__device__ __forceinline__ u64 descriptor\(.*?^}$", re.M | re.S)


@cache
def _all() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


def new_folder() -> Path:
    """An empty one, gone with the process."""
    return Path(mkdtemp(dir=_all().name))


def descriptor() -> str:
    """The kernels' own function of wgmma's descriptors."""
    found = _DESCRIPTOR.search((CUDA / "hopper.cuh").read_text())
    assert found is not None
    return found[0]


def made(folder: Path, text: str, options: Sequence[str], *flags: str) -> Path:
    """The program of a text.

    Args:
        folder: for it; headers there come before the kernels' own.
        options: the launcher's, of which macros count.
        flags: g++'s.
    """
    source, executable = folder / "kernel.cpp", folder / "kernel"
    source.write_text(text)
    macros = [option for option in options if option.startswith("-D")]
    paths = [f"-I{place}" for place in (folder, HERE, CUDA)]
    # For one program alone, as in the default suite, it does not pay.
    first = ["-include", str(_library(flags))] if flags in _COMPILED else []
    _COMPILED.add(flags)
    _compile(*flags, *first, *macros, *paths, "-o", str(executable), str(source))
    return executable


@cache
def _library(flags: tuple[str, ...]) -> Path:
    """The standard library's headers, compiled for programs with these flags."""
    header = new_folder() / "standard_library.h"
    header.write_bytes((HERE / header.name).read_bytes())
    _compile(*flags, "-x", "c++-header", "-o", f"{header}.gch", str(header))
    return header


def _compile(*words: str) -> None:
    command = ["g++", "-std=c++17", "-fno-strict-aliasing", "-w", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def answer(executable: Path, numbers: Sequence[int], parts: Sequence[bytes]) -> tuple[bytes, str]:
    """What a program made of a job, and what it complained of: one of them is empty."""
    job, result = executable.with_suffix(".job"), executable.with_suffix(".result")
    header = np.array([*numbers, *map(len, parts)], np.int64).tobytes()
    job.write_bytes(header + b"".join(parts))
    command = [str(executable), str(job), str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode != 0:
        return b"", done.stderr or f"it ended with {done.returncode}"
    return result.read_bytes(), ""
