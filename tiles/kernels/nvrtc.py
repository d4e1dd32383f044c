"""NVRTC: CUDA C++ compiled to a binary and PTX, without a GPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tiles.kernels.compile_facts import OfflineCompileError

__all__ = ["Compiled", "compile_code", "compiler_name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What NVRTC made of a source."""

    binary: bytes
    ptx: str
    log: str  #: warnings; empty where there are none


def compiler_name() -> str | None:
    """NVRTC's name and version; None where ``cuda-bindings`` or the library is missing."""
    try:
        from cuda.bindings import nvrtc

        error, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError):
        return None
    return f"nvrtc {major}.{minor}" if not int(error) else None


def compile_code(code: str, name: str, options: Sequence[str]) -> Compiled:
    """Compile a source whose headers are in it.

    Args:
        name: of the file, for messages.
        options: NVRTC's, the architecture among them.

    Raises:
        OfflineCompileError: NVRTC refuses the source or an option; its log is the message.
    """
    from cuda.bindings import nvrtc

    error, program = nvrtc.nvrtcCreateProgram(code.encode(), name.encode(), 0, [], [])
    if int(error):
        raise OfflineCompileError(f"nvrtc: {error.name}")
    try:
        words = [option.encode() for option in options]
        (error,) = nvrtc.nvrtcCompileProgram(program, len(words), words)
        log = _text(_read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program))
        if int(error):
            raise OfflineCompileError(log or error.name)
        return Compiled(
            binary=bytes(_read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)),
            ptx=_text(_read(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)),
            log=log,
        )
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _read(size_of: Callable[..., Any], fill: Callable[..., Any], program: Any) -> bytearray:
    """What NVRTC writes into memory of the size that it names."""
    _, size = size_of(program)
    # Never bytes: Python shares those of one byte, and an empty log is one byte long.  Written to,
    # every b" " that is made at run time would be a NUL from then on.
    memory = bytearray(size)
    fill(program, memory)
    return memory


def _text(memory: bytearray) -> str:
    return memory.decode(errors="replace").strip(" \0\n")
