"""Run ``align_mx_scales.cu`` on the CPU: g++, ``cuda_on_host.h`` and ``halves_on_host.h``."""

import ctypes
from functools import cache

import numpy as np
from dataflow_on_host import poisoned
from device_on_host import compile_library, complaint, device_memory, struct_bytes

from tiles.kernels.cuda import align_mx_scales
from tiles.kernels.cuda.align_mx_scales import Side

_MAIN = f"""
#include "halves_on_host.h"
#include "{align_mx_scales.SOURCE}"
extern "C" void run_on_host(const void *bytes, u32 grid, u32 threads) {{
    Operands p;
    memcpy(&p, bytes, sizeof p);
    host::body = [p] {{ align_mx_scales(p); }};
    host::run(grid, 1, threads, 0);
}}
extern "C" u64 parameter_bytes() {{ return sizeof(Operands); }}
extern "C" u32 shifted_word(u32 codes, int by) {{
    return align_codes(make_uint4(codes, 0, 0, codes), by).w;
}}
"""


@cache
def library(element: str) -> ctypes.CDLL:
    """The kernel for an element."""
    options = align_mx_scales.options(element)
    macros = tuple(option for option in options if not option.startswith("-arch"))
    found = compile_library(_MAIN, macros)
    found.parameter_bytes.restype = ctypes.c_uint64
    found.shifted_word.restype = ctypes.c_uint32
    return found


def align(
    operands: list[tuple[np.ndarray, np.ndarray]], element: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the launch writes of codes (rows, K) and exponents (rows, ceil(K / 32)), A's and B's.

    Behind rows of codes and columns of scales, in and out, lies what nobody may touch.
    """
    made, arrays = library(element), {}
    k, chunks = operands[0][0].shape[1], -(-operands[0][0].shape[1] // 128)
    for place, (codes, exponents) in enumerate(operands):
        rows = codes.shape[0]
        arrays[f"given{place}"] = np.full((rows, k + 16), 0xEE, np.uint8)
        arrays[f"given{place}"][:, :k] = codes
        arrays[f"exponents{place}"] = np.ascontiguousarray(exponents)
        arrays[f"codes{place}"] = poisoned((rows, k + 32), "uint8")
        arrays[f"columns{place}"] = poisoned((chunks + 1, -(-rows // 4) * 4), "float32")
    before = {name: array.copy() for name, array in arrays.items()}
    with device_memory(arrays) as (there, tell):
        sides = []
        for place, (codes, _) in enumerate(operands):
            names = (f"given{place}", f"exponents{place}", f"codes{place}", f"columns{place}")
            at = [there[name].ctypes.data for name in names]
            apart = arrays[f"columns{place}"].shape[1]
            sides.append(Side(*at, k + 16, k + 32, apart, codes.shape[0]))
        grid, parameters = align_mx_scales.parameters(sides, k)
        assert made.parameter_bytes() == np.array(parameters).nbytes
        tell(made)
        made.run_on_host(struct_bytes(parameters), grid, align_mx_scales.THREADS)
        wrong = complaint(made)
        assert not wrong, wrong
    found = []
    for place, (codes, _) in enumerate(operands):
        rows, out, columns = codes.shape[0], arrays[f"codes{place}"], arrays[f"columns{place}"]
        assert (out[:, k:] == before[f"codes{place}"][:, k:]).all(), "written behind a row"
        same = columns.view(np.uint32) == before[f"columns{place}"].view(np.uint32)
        assert same[chunks:].all(), "written behind the scales"
        assert same[:, rows:].all(), "written behind a column"
        found.append((out[:, :k].copy(), columns[:chunks, :rows].T.copy()))
    return found
