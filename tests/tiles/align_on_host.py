"""Run ``align_mx_scales.cu`` on the CPU: g++, ``cuda_on_host.h`` and ``halves_on_host.h``."""

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
from dataflow_on_host import _folder, poisoned
from quantize_on_host import _compile

from tiles.kernels.cuda import align_mx_scales
from tiles.kernels.cuda.align_mx_scales import Side

_MAIN = f"""
#include "halves_on_host.h"
#include "{align_mx_scales.SOURCE}"
extern "C" void run_on_host(const void *bytes, u32 grid, u32 threads) {{
    Operands p;
    memcpy(&p, bytes, sizeof p);
    host::body = [p] {{ align_mx_scales(p); }};
    host::run(grid, 1, threads, 1 << 16);
}}
extern "C" u64 parameter_bytes() {{ return sizeof(Operands); }}
extern "C" u32 shifted_word(u32 codes, int by) {{
    return align_codes(make_uint4(codes, 0, 0, codes), by).w;
}}
"""


@cache
def library(element: str) -> ctypes.CDLL:
    """The kernel for an element."""
    path = Path(_folder().name) / f"align-{element}.so"
    options = align_mx_scales.options(element)
    macros = tuple(option for option in options if not option.startswith("-arch"))
    _compile(_MAIN, path, macros)
    found = ctypes.CDLL(str(path))
    found.parameter_bytes.restype = ctypes.c_uint64
    found.shifted_word.restype = ctypes.c_uint32
    return found


def align(
    operands: list[tuple[np.ndarray, np.ndarray]], element: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the launch writes of codes (rows, K) and exponents (rows, ceil(K / 32)), A's and B's.

    Behind rows of codes and columns of scales, in and out, lies what nobody may touch.
    """
    made, sides, kept = library(element), [], []
    k = operands[0][0].shape[1]
    for codes, exponents in operands:
        rows = codes.shape[0]
        apart = -(-rows // 4) * 4
        given = np.full((rows, k + 16), 0xEE, np.uint8)
        given[:, :k] = codes
        scales = np.ascontiguousarray(exponents)
        out = poisoned((rows, k + 32), "uint8")
        columns = poisoned((-(-k // 128) + 1, apart), "float32")
        source, exponent, target, column = (
            array.ctypes.data for array in (given, scales, out, columns)
        )
        sides.append(Side(source, exponent, target, column, k + 16, k + 32, apart, rows))
        kept.append((given, scales, out, columns, out.copy(), columns.copy()))
    grid, parameters = align_mx_scales.parameters(sides, k)
    held = np.array(parameters)
    assert made.parameter_bytes() == held.nbytes
    made.run_on_host(ctypes.c_void_p(held.ctypes.data), grid, align_mx_scales.THREADS)
    found = []
    for codes, out, columns, codes_before, columns_before in (
        (one[0], one[2], one[3], one[4], one[5]) for one in kept
    ):
        rows, chunks = codes.shape[0], -(-k // 128)
        assert (out[:, k:] == codes_before[:, k:]).all(), "written behind a row"
        same = columns.view(np.uint32) == columns_before.view(np.uint32)
        assert same[chunks:].all(), "written behind the scales"
        assert same[:, rows:].all(), "written behind a column"
        found.append((out[:, :k].copy(), columns[:chunks, :rows].T.copy()))
    return found
