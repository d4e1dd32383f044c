"""Run ``gemm_hopper.cu`` on the CPU, clusters of one: NumPy arrays, g++, ``hopper_on_host.h``."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from hopper_skinny_host import _PLAIN, _pitched
from host_program import answer, descriptor, made, new_folder
from numpy.typing import NDArray

from tiles.kernels.cuda import gemm_hopper
from tiles.kernels.cuda.hopper_formats import BOTH

SOURCE = Path(gemm_hopper.__file__).with_suffix(".cu")
_HEADERS = re.compile(r'^#include "hopper(_wgmma|_staging)?\.cuh"$', re.MULTILINE)
_REGISTERS = re.compile(r'^ *asm volatile\("setmaxnreg[^\n]*\n', re.MULTILINE)
_ROW_HEADER = '#include "hopper_row_promotion.cuh"\n'
#: A hint to the compiler.
_KEPT = (r'asm volatile\("" : "\+f"\(x\)\);', "")
#: Barriers lie behind the rings: a launch has so much more shared memory than it asks for.
BARRIERS_BYTES = 1024


def source_text() -> str:
    """The kernel, with the header of promotions under scales of rows and columns in it."""
    text = SOURCE.with_name("hopper_row_promotion.cuh").read_text()
    for ptx, plain in (*_PLAIN, _KEPT):
        text, found = re.subn(ptx, plain, text)
        assert found == 1
    return SOURCE.read_text().replace(_ROW_HEADER, text)


@cache
def program(options: tuple[str, ...], smem: int, text: str) -> Path:
    """The kernel with these macros as a program of the CPU."""
    text = _REGISTERS.sub("", _HEADERS.sub("", text))
    for place, name in enumerate(("full", "empty")):
        assert f"shared_address({name})" in text
        at = 1024 + smem + place * BARRIERS_BYTES // 2
        text = text.replace(f"shared_address({name})", f"(u32){at}")
    # THREADS is the kernel's, and what stands in for the GPU needs it.
    at = text.index('#include "hopper_raster.cuh"')
    stands_in = '#include "hopper_on_host.h"\n#include "hopper_staging_on_host.h"\n'
    half = "#define WGMMA_N BLOCK_N\n"
    pieces = (half, text[:at], stands_in, descriptor(), "\n", text[at:])
    whole = "".join(pieces) + '\n#include "hopper_gemm_on_host.cpp"\n'
    return made(new_folder(), whole, options, "-O1")


def run(
    a: NDArray[np.generic],
    b: NDArray[np.generic],
    a_scale: NDArray[np.float32],
    b_scale: NDArray[np.float32],
    *,
    element: str,
    out: str,
    scales: str,
    config: Mapping[str, int | bool],
    ctas: int,
    seed: int = 0,
    text: str = "",
) -> tuple[NDArray[np.generic], str]:
    """C, after seeing that nothing was written outside of it, and what the program complained of.

    Args:
        a, b: codes of 8 bits.
        ctas: that walk over the tiles.
        text: of a changed kernel.
    """
    options = gemm_hopper.options(element=element, out=out, scales=scales, config=config)
    m, n = a.shape[0], b.shape[0]
    dtype = np.dtype({"bf16": "uint16", "fp32": "float32"}[out])
    c, c_pitch = _pitched(np.full((m, n), 0xFF).astype(np.uint8).repeat(dtype.itemsize, 1))
    (a_bytes, a_pitch), (b_bytes, b_pitch) = _pitched(a), _pitched(b)
    parts = [a_bytes, b_bytes, a_scale.tobytes(), b_scale.tobytes(), c]
    columns = scale_pitch = column_pitch = 0
    if scales in ("b1x128", BOTH):  # M contiguous
        parts[2], scale_pitch = _pitched(a_scale.T)
        columns = a_scale.shape[1]
    if scales == BOTH:
        parts[3], column_pitch = _pitched(b_scale.T)
    smem = gemm_hopper.smem_bytes(scales=scales, config=config)
    executable = program(options, smem, text or source_text())
    numbers = [m, n, a.shape[1], a_pitch, b_pitch, c_pitch, columns, scale_pitch]
    numbers += [column_pitch, seed, smem + BARRIERS_BYTES, ctas]
    result, complaint = answer(executable, numbers, parts)
    if complaint:
        return np.zeros((m, n), dtype), complaint
    rows = np.frombuffer(result, np.uint8).reshape(m, c_pitch)
    width = n * dtype.itemsize
    assert (rows[:, width:] == 0xFF).all(), "something was written behind a row of C"
    return np.ascontiguousarray(rows[:, :width]).view(dtype), ""
