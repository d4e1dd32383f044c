"""Run ``gemm_hopper_weight_only.cu`` on the CPU by g++ and ``hopper_on_host.h``."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from host_program import answer, descriptor, made, new_folder
from numpy.typing import NDArray

from tiles.kernels.cuda import gemm_hopper_weight_only as launcher
from tiles.kernels.cuda.hopper_weight_operands import COUNTED_TILES
from tiles.kernels.triton.weight_layout import PackedWeight

SOURCE = Path(launcher.__file__).with_suffix(".cu")
_HEADERS = re.compile(r'^#include "hopper(_mma|_start|_wgmma)?\.cuh"$', re.MULTILINE)
_OUT = {"bf16": np.uint16, "fp16": np.float16, "fp32": np.float32}


def source_text() -> str:
    """The kernel."""
    return SOURCE.read_text()


@cache
def program(options: tuple[str, ...]) -> Path:
    """The kernel with these macros as a program of the CPU."""
    text = _HEADERS.sub("", source_text())
    at = text.index('#include "hopper_ring.cuh"')
    stand_ins = "#ifndef WGMMA_N\n#define WGMMA_N 8\n#endif\n"
    stand_ins += '#include "hopper_on_host.h"\n#include "hopper_mma_on_host.h"\n'
    stand_ins += '#include "hopper_start_on_host.h"\n'
    body = (text[:at], stand_ins, descriptor(), "\n", text[at:])
    counted = f"#define COUNTED {COUNTED_TILES}\n"
    whole = "".join(body) + f'\n{counted}#include "hopper_weight_only_on_host.cpp"\n'
    return made(new_folder(), whole, options, "-O0")


def _bytes(tensor: torch.Tensor | None) -> bytes:
    return b"" if tensor is None else tensor.contiguous().view(torch.uint8).numpy().tobytes()


def run(
    x: torch.Tensor,
    weight: PackedWeight,
    *,
    out: str,
    config: Mapping[str, int | bool],
    multiprocessors: int,
    seed: int = 0,
    landing: int = 16,
) -> NDArray[np.generic]:
    """C, after seeing that nothing was written outside of it and that counters are zeros again.

    Args:
        x: (M, K) bf16 or fp16 on the CPU.
        landing: turns of warps that a copy takes, on average.
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
    grid = launcher.ctas(m, n, panels, config, multiprocessors)
    words = launcher.workspace_words(m, n, panels, config, multiprocessors)
    workspace = np.full(max(words, COUNTED_TILES), -1, np.int32)
    workspace[:COUNTED_TILES] = 0
    parts = [
        _bytes(held),
        _bytes(weight.codes),
        _bytes(weight.scale),
        _bytes(weight.zero),
        _bytes(weight.row_scale),
        c.tobytes(),
        workspace.tobytes(),
    ]
    smem = launcher.smem_bytes(config=config, **formats)
    numbers = [m, n, k, panels, x_pitch, c_pitch, grid, seed, smem]
    executable = program((*options, f"-DHOST_LANDING={landing}"))
    result, complaint = answer(executable, numbers, parts)
    assert not complaint, complaint
    found = np.frombuffer(result, np.uint8)
    rows = found[: c.size].reshape(m, c_pitch)
    counters = found[c.size :].view(np.int32)[:COUNTED_TILES]
    assert not counters.any(), "counters are not ready for another launch"
    width = n * dtype.itemsize
    assert (rows[:, width:] == 0xFF).all(), "something was written behind a row of C"
    return np.ascontiguousarray(rows[:, :width]).view(dtype)
