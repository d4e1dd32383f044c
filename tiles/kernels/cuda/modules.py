"""CUDA C++ sources made into modules on the current device; no torch needed.

A binary that was compiled ahead is taken where one lies ready; otherwise CuPy compiles the source
and keeps the binary in its own disk cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["BINARIES", "CUPY_OPTIONS", "binary_name", "keep_binary", "load", "read_source"]

#: Environment variable: the folder of binaries that were compiled ahead.
BINARIES = "TILE_KERNELS_BINARIES"
#: CuPy compiles with it, whatever its caller says.
CUPY_OPTIONS = ("-ftz=true",)

_INCLUDE = re.compile(r'^#include "([A-Za-z0-9_]+\.cuh)"$', re.MULTILINE)
_ARCHITECTURE = "-arch="


def read_source(path: Path) -> str:
    """A source with the headers that it includes written in: of its folder, or of this one."""
    text = path.read_text(encoding="utf-8")

    def header(match: re.Match[str]) -> str:
        beside = path.with_name(match[1])
        return read_source(beside if beside.is_file() else Path(__file__).with_name(match[1]))

    return _INCLUDE.sub(header, text)


def binary_name(source: str, options: Sequence[str], target: str, compiler: str) -> str:
    """File name of what a compiler makes of a source.

    Args:
        options: the compiler's; an architecture among them is ``target``, and left out.
        target: architecture, e.g. "sm_90a".
        compiler: name and version, e.g. "nvrtc 13.0".
    """
    words = [option for option in options if not option.startswith(_ARCHITECTURE)]
    text = "\0".join([source, *words, target, compiler])
    return f"{hashlib.sha256(text.encode()).hexdigest()}.cubin"


def keep_binary(name: str, binary: bytes) -> None:
    """Put a binary where :func:`load` looks; without a folder, or on a full disk, it is dropped."""
    if not (named := os.environ.get(BINARIES)):
        return
    with contextlib.suppress(OSError):
        folder = Path(named)
        folder.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(binary)
            os.replace(temporary, folder / name)
        except OSError:
            os.unlink(temporary)


def load(path: Path, options: tuple[str, ...]) -> Any:
    """The module of a source file for the current device.

    Raises:
        ImportError: CuPy is missing; cupy.cuda.compiler.CompileException: it refuses the source.
    """
    try:
        import cupy
    except ImportError as error:
        raise ImportError("cupy is missing: pip install 'tile-workbench[cuda]'") from error
    source = read_source(path)
    if folder := os.environ.get(BINARIES):
        named = [o.removeprefix(_ARCHITECTURE) for o in options if o.startswith(_ARCHITECTURE)]
        target = named[0] if named else f"sm_{cupy.cuda.Device().compute_capability}"
        major, minor = cupy.cuda.nvrtc.getVersion()
        binary = Path(folder) / binary_name(source, options, target, f"nvrtc {major}.{minor}")
        if binary.is_file():
            return cupy.RawModule(path=str(binary))
    return cupy.RawModule(code=source, options=options)
