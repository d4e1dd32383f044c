"""Run ``gemm_hopper_weight_prefill.cu`` on the CPU by g++ and ``hopper_on_host.h``."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hopper_weight_only_host import _OUT, _bytes
from host_program import answer, descriptor, made, new_folder
from numpy.typing import NDArray

from tiles.kernels.cuda import gemm_hopper_weight_prefill as launcher
from tiles.kernels.triton.weight_layout import PackedWeight

SOURCE = Path(launcher.__file__).with_suffix(".cu")
_HEADERS = re.compile(r'^#include "hopper(_mma|_wgmma|_staging)?\.cuh"$', re.MULTILINE)
_REGISTERS = re.compile(r'^ *asm volatile\("setmaxnreg[^\n]*\n', re.MULTILINE)


def source_text() -> str:
    """The kernel."""
    return SOURCE.read_text()


@cache
def program(options: tuple[str, ...], text: str) -> Path:
    """The kernel with these macros as a program of the CPU."""
    text = _REGISTERS.sub("", _HEADERS.sub("", text))
    at = text.index('#include "hopper_ring.cuh"')
    stand_ins = "".join(f'#include "hopper{n}_on_host.h"\n' for n in ("", "_mma", "_staging"))
    whole = "".join((text[:at], stand_ins, descriptor(), "\n", text[at:]))
    whole += '\n#include "hopper_weight_prefill_on_host.cpp"\n'
    return made(new_folder(), whole, options, "-O1")


def run(
    x: torch.Tensor,
    weight: PackedWeight,
    *,
    out: str,
    config: Mapping[str, int | bool],
    ctas: int,
    seed: int = 0,
    landing: int = 16,
    text: str = "",
) -> NDArray[np.generic]:
    """C, after seeing that nothing was written outside of it.

    Args:
        x: (M, K) bf16 or fp16 on the CPU.
        ctas: that walk over the tiles.
        landing: turns of warps that a copy takes, on average.
        text: of a changed kernel.
    """
    element = {torch.bfloat16: "bf16", torch.float16: "fp16"}[x.dtype]
    formats: dict[str, Any] = {
        "weight": weight.element,
        "scale_format": weight.scale_format,
        "group": weight.group,
    }
    options = launcher.options(element=element, out=out, config=config, **formats)
    (m, k), n, panels = x.shape, weight.rows, weight.codes.shape[0]
    x_pitch = -(-k * 2 // 16) * 16 + 16
    held = torch.full((m, x_pitch), 0xFF, dtype=torch.uint8)
    held[:, : 2 * k] = x.contiguous().view(torch.uint8).view(m, 2 * k)
    dtype = np.dtype(_OUT[out])
    c_pitch = n * dtype.itemsize + 16
    c = np.full((m, c_pitch), 0xFF, np.uint8)
    weights = (weight.codes, weight.scale, weight.zero, weight.row_scale)
    parts = [_bytes(held), *map(_bytes, weights), c.tobytes()]
    smem = launcher.smem_bytes(out=out, config=config, **formats)
    numbers = [m, n, k, panels, x_pitch, c_pitch, ctas, seed, smem]
    executable = program((*options, f"-DHOST_LANDING={landing}"), text or source_text())
    result, complaint = answer(executable, numbers, parts)
    assert not complaint, complaint
    rows = np.frombuffer(result, np.uint8).reshape(m, c_pitch)
    width = n * dtype.itemsize
    assert (rows[:, width:] == 0xFF).all(), "something was written behind a row of C"
    return np.ascontiguousarray(rows[:, :width]).view(dtype)
