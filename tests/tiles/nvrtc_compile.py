"""CUDA C++ compiled by NVRTC without a driver."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cuda.bindings import nvrtc

from tiles.kernels.cubin import cuobjdump
from tiles.kernels.cuda.modules import read_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What NVRTC made of a source."""

    ptx: str
    log: str
    binary: bytes

    def machine_code(self) -> str:
        """The binary's instructions (SASS), jumps by label."""
        tool = cuobjdump()
        assert tool is not None, "nvdisasm comes with Triton, as cuobjdump does"
        with TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.cubin"
            path.write_bytes(self.binary)
            return subprocess.run(
                [Path(tool).with_name("nvdisasm"), "-c", path],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            ).stdout


def stages_given_up_unread(ptx: str) -> list[str]:
    """Arrivals that give up a stage although no ``bar.warp.sync`` stands behind a read of it.

    A lane arrives for its warp: what the others have read must be read before.
    """
    found, reads = [], False
    for line in ptx.splitlines():
        if "ld.shared" in line:
            reads = True
        elif "bar.warp.sync" in line:
            reads = False
        elif reads and re.search(r"mbarrier\.arrive\.shared::(cta|cluster)\.b64", line):
            found.append(line.strip())
    return found


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
    _, count = nvrtc.nvrtcGetCUBINSize(program)
    binary = b" " * count
    nvrtc.nvrtcGetCUBIN(program, binary)
    nvrtc.nvrtcDestroyProgram(program)
    return Compiled(ptx=ptx, log=log, binary=binary)


def _check(error: Any, log: str) -> None:
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, log


def _text(size: Any, get: Any, program: Any) -> str:
    _, count = size(program)
    text = b" " * count
    get(program, text)
    return text.decode().strip(" \0\n")
