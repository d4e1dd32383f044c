"""Run the CUDA C++ quantisation and transposition on the CPU: g++ and ``cuda_on_host.h``."""

import ctypes
from typing import Any

import numpy as np
from dataflow_on_host import poisoned
from device_on_host import HostArray, compile_library, complaint, device_memory, struct_bytes

from tiles.kernels.cuda import quantize_blocks, transpose_codes

_MAIN = """
#include "{source}"
extern "C" void run_on_host(const void *bytes, u32 grid, u32 threads) {{
    Operands p;
    memcpy(&p, bytes, sizeof p);
    host::body = [p] {{ {kernel}(p); }};
    host::run(grid, 1, threads, 0);
}}
extern "C" u64 parameter_bytes() {{ return sizeof(Operands); }}
"""


def run(
    source: str, options: tuple[str, ...], ctas: int, threads: int, parameters: Any, tell: Any
) -> None:
    """A launch on the CPU.

    Raises:
        AssertionError: what it did wrong in memory.
    """
    text = _MAIN.format(source=source, kernel=source.removesuffix(".cu"))
    made = compile_library(text, options)
    tell(made)
    assert made.parameter_bytes() == np.array(parameters).nbytes
    made.run_on_host(struct_bytes(parameters), ctas, threads)
    wrong = complaint(made)
    assert not wrong, wrong


_QUOTIENTS = """
#define SOURCE 1
#define TARGET 0
#define STOCHASTIC 0
#define VECTOR 8
#define ALIGNED 1
#include "quantize_codes.cuh"
// Of numbers with so many significant bits: quotients by all scales that are not x / scale.
extern "C" u32 wrong_quotients(u32 bits) {
    u32 wrong = 0;
    for (u32 a = 1u << (bits - 1); a < 1u << bits; ++a) {
        const float scale = quotient((float)a, 127.0f, -1.0f / 127.0f);
        const float negative = minus(reciprocal_rn(scale)), rest = rest_of(scale, negative);
        wrong += scale != (float)a / 127.0f;
        for (u32 x = 1u << (bits - 1); x < 1u << bits; ++x) {
            wrong += short_quotient((float)x, minus(negative), rest) != (float)x / scale;
            wrong += quotient((float)x, scale, negative) != (float)x / scale;
        }
    }
    return wrong;
}
"""


_PHILOX = """
#define ALIGNED 1
#include "words.cuh"
#include "philox.cuh"
extern "C" void draw(const u64 *counters, u32 count, const RoundKeys *keys, u32 *words) {
    for (u32 i = 0; i < count; ++i) {
        const Random random = philox_of(counters[i], *keys);
        for (int w = 0; w < 4; ++w) words[4 * i + w] = random.words[w];
    }
}
"""


def drawn(counters: np.ndarray, keys: np.ndarray, *, narrow: bool) -> np.ndarray:
    """Random words of Philox counters (uint64), four each, as the kernels draw them."""
    words = np.zeros((len(counters), 4), np.uint32)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (counters, keys, words)]
    made = compile_library(_PHILOX, (f"-DNARROW={int(narrow)}",))
    made.draw(pointers[0], len(counters), *pointers[1:])
    return words


def wrong_quotients(bits: int) -> int:
    """Quotients of the kernel's arithmetic that are not correctly rounded, of all there are."""
    return int(compile_library(_QUOTIENTS, ()).wrong_quotients(bits))


def quantize(
    x: np.ndarray,
    *,
    block: tuple[int, int],
    transposed: bool,
    config: dict[str, int],
    whole: tuple[int, int] | None = None,
    **rest: Any,
) -> dict[str, np.ndarray]:
    """``quantize_blocks.launch`` on the CPU, what it writes by its argument's name.

    Args:
        whole: shape of the matrix of which ``x`` is a part at ``place``.
    """
    rows, cols = whole or x.shape
    grid = -(-rows // block[0]), -(-cols // block[1]) if block[1] else 1
    written = {"codes": poisoned((rows, cols), "int8"), "scales": poisoned(grid, "float32")}
    if transposed:
        written["codes_t"] = poisoned((cols, rows), "int8")
        written["scales_t"] = poisoned(grid[::-1], "float32")
    with device_memory({"x": x, **written}) as (there, tell):
        views: dict[str, Any] = {name: HostArray(array) for name, array in there.items()}
        options, ctas, parameters = quantize_blocks.prepare(
            **views, target="int8", block=block, config=config, **rest
        )
        run(quantize_blocks.SOURCE, options, ctas, config["threads"], parameters, tell)
    return written


def transpose(codes: np.ndarray, config: dict[str, int]) -> np.ndarray:
    """``transpose_codes.launch`` on the CPU."""
    out = poisoned(codes.shape[::-1], "uint8")
    with device_memory({"codes": codes, "out": out}) as (there, tell):
        views: dict[str, Any] = {name: HostArray(array) for name, array in there.items()}
        options, ctas, parameters = transpose_codes.prepare(**views, config=config)
        run(transpose_codes.SOURCE, options, ctas, 32 * config["num_warps"], parameters, tell)
    return out
