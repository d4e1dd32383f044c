"""CUDA C++ compiled by NVRTC without a driver."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tiles.kernels import nvrtc
from tiles.kernels.cubin import cuobjdump
from tiles.kernels.cuda.modules import read_source
from tiles.kernels.nvrtc import compile_code


class Compiled(nvrtc.Compiled):
    """What NVRTC made of a source."""

    __slots__ = ()

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
                timeout=900,
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
    spelt = [option.replace("-arch=", "--gpu-architecture=") for option in options]
    made = compile_code(read_source(source), source.name, spelt)
    return Compiled(binary=made.binary, ptx=made.ptx, log=made.log)
