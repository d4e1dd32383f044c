"""CUDA C++ compiled by NVRTC without a driver."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuda.bindings import nvrtc

from tiles.kernels.cuda.modules import read_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What NVRTC made of a source."""

    ptx: str
    log: str
    cubin: bytes


def compile_cuda(source: Path, options: Sequence[str]) -> Compiled:
    """PTX and log; a failure has the log in its message.

    ``-arch=`` is spelt ``--gpu-architecture=`` here: CuPy translates it.
    """
    error, program = nvrtc.nvrtcCreateProgram(
        read_source(source).encode(), source.name.encode(), 0, [], []
    )
    _check(error, "")
    spelt = [o.replace("-arch=", "--gpu-architecture=") for o in options]
    arguments = [o.encode() for o in spelt]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(arguments), arguments)
    log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    _check(error, log)
    ptx = _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)
    error, count = nvrtc.nvrtcGetCUBINSize(program)
    _check(error, log)
    cubin = b" " * count
    nvrtc.nvrtcGetCUBIN(program, cubin)
    nvrtc.nvrtcDestroyProgram(program)
    return Compiled(ptx=ptx, log=log, cubin=cubin)


def _check(error: Any, log: str) -> None:
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, log


def _text(size: Any, get: Any, program: Any) -> str:
    _, count = size(program)
    text = b" " * count
    get(program, text)
    return text.decode().strip(" \0\n")
