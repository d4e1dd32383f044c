"""Run ``gemm_hopper_skinny.cu`` on the CPU: NumPy arrays, g++ and ``hopper_on_host.h``."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from host_program import answer, descriptor, made, new_folder
from numpy.typing import NDArray

from tiles.kernels.cuda import gemm_hopper_skinny

SOURCE = Path(gemm_hopper_skinny.__file__).with_suffix(".cu")
_HEADERS = re.compile(r'^#include "hopper(_wgmma)?\.cuh"$', re.MULTILINE)
_MX_HEADER = '#include "hopper_mx_scales.cuh"\n'
_START = '#include "hopper_start.cuh"', '#include "hopper_start_on_host.h"'
#: What the kernel says in PTX, in C++.
_PLAIN = (
    (r'asm\("mul\.rn\.f32.*;', "result = x * y;"),
    (r'asm\("fma\.rn\.f32.*;', "result = std::fma(x, y, z);"),
)
#: Of MX scales.
_MX_PLAIN = (
    # Nobody may count on the first.
    (
        r'(?s)asm volatile\("{\\n\.reg \.pred p;\\nelect.*?\);',
        "chosen = running->index % 32 == 13;",
    ),
    (
        r'(?s)asm volatile\("st\.shared\.v4.*?"memory"\);',
        "for (int i = 0; i < 4; i++) store_shared(address + i * 4, x[i]);",
    ),
)


def source_text() -> str:
    """The kernel, with the header of its MX scales in it."""
    text = SOURCE.with_name("hopper_mx_scales.cuh").read_text()
    for ptx, plain in (*_PLAIN, *_MX_PLAIN):
        text, found = re.subn(ptx, plain, text)
        assert found == 1
    return SOURCE.read_text().replace(_MX_HEADER, text)


@cache
def program(options: tuple[str, ...]) -> Path:
    """The kernel with these macros as a program of the CPU."""
    text = _HEADERS.sub("", source_text()).replace(*_START)
    # THREADS is the kernel's, and what stands in for the GPU needs it.
    at = text.index('#include "hopper_ring.cuh"')
    pieces = (text[:at], '#include "hopper_on_host.h"\n', descriptor(), "\n", text[at:])
    whole = "".join(pieces) + '\n#include "hopper_skinny_on_host.cpp"\n'
    return made(new_folder(), whole, options, "-O1")


def _pitched(matrix: NDArray[np.generic]) -> tuple[bytes, int]:
    """Rows at multiples of 16 bytes, with a gap of 0xFF behind each, and their distance."""
    rows, width = matrix.shape[0], matrix.shape[1] * matrix.itemsize
    pitch = -(-width // 16) * 16 + 16
    held = np.full((rows, pitch), 0xFF, np.uint8)
    held[:, :width] = np.ascontiguousarray(matrix).view(np.uint8).reshape(rows, width)
    return held.tobytes(), pitch


def run(
    a: NDArray[np.generic],
    b: NDArray[np.generic],
    a_scale: NDArray[np.generic] | None,
    b_scale: NDArray[np.generic] | None,
    *,
    element: str,
    out: str,
    scales: str,
    config: Mapping[str, int | bool],
    seed: int = 0,
) -> NDArray[np.generic]:
    """C, after seeing that nothing was written outside of it.

    Args:
        a, b: codes, bf16 as uint16 and 8-bit floats as uint8.
        a_scale, b_scale: fp32, or MX scales as uint8.
    """
    options = gemm_hopper_skinny.options(element=element, out=out, scales=scales, config=config)
    m, n = a.shape[0], b.shape[0]
    dtype = np.dtype({"bf16": "uint16", "fp16": "float16", "fp32": "float32"}[out])
    c, c_pitch = _pitched(np.full((m, n), 0xFF).astype(np.uint8).repeat(dtype.itemsize, 1))
    (a_bytes, a_pitch), (b_bytes, b_pitch) = _pitched(a), _pitched(b)
    parts, columns, scale_pitch = [a_bytes, b_bytes, b"", b"", c], 0, 0
    if a_scale is not None and b_scale is not None:
        parts[2:4] = a_scale.tobytes(), b_scale.tobytes()
        if scales == "b1x128":  # M contiguous
            parts[2], scale_pitch = _pitched(a_scale.T)
            columns = a_scale.shape[1]
    smem = gemm_hopper_skinny.smem_bytes(scales=scales, config=config)
    numbers = [m, n, a.shape[1], a_pitch, b_pitch, c_pitch, columns, scale_pitch, seed, smem]
    result, complaint = answer(program(options), numbers, parts)
    assert not complaint, complaint
    rows = np.frombuffer(result, np.uint8).reshape(m, c_pitch)
    width = n * dtype.itemsize
    assert (rows[:, width:] == 0xFF).all(), "something was written behind a row of C"
    found: NDArray[np.generic] = np.ascontiguousarray(rows[:, :width]).view(dtype)
    return found
