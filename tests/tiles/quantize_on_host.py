"""Run the CUDA C++ quantisation and transposition on the CPU: g++ and ``cuda_on_host.h``."""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from dataflow_on_host import HostArray, poisoned
from dataflow_on_host import _folder as folder

from tiles.kernels.cuda import quantize_blocks, transpose_codes

HERE = Path(__file__).parent
FOLDER = Path(quantize_blocks.__file__).parent
_MAIN = """
#include "cuda_on_host.h"
#include "{source}"
extern "C" void run_on_host(const void *bytes, u32 grid, u32 threads) {{
    Operands p;
    memcpy(&p, bytes, sizeof p);
    host::body = [p] {{ {kernel}(p); }};
    host::run(grid, 1, threads, 1 << 16);
}}
extern "C" u64 parameter_bytes() {{ return sizeof(Operands); }}
"""


def run(source: str, options: tuple[str, ...], ctas: int, threads: int, parameters: Any) -> None:
    """A launch on the CPU."""
    path = Path(folder().name) / f"kernel{abs(hash((source, options)))}.so"
    text = _MAIN.format(source=source, kernel=source.removesuffix(".cu"))
    _compile(text, path, options)
    made = ctypes.CDLL(str(path))
    held = np.array(parameters)
    made.parameter_bytes.restype = ctypes.c_uint64
    assert made.parameter_bytes() == held.nbytes
    made.run_on_host(ctypes.c_void_p(held.ctypes.data), ctas, threads)


_QUOTIENTS = """
#include "cuda_on_host.h"
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


def wrong_quotients(bits: int) -> int:
    """Quotients of the kernel's arithmetic that are not correctly rounded, of all there are."""
    path = Path(folder().name) / "quotients.so"
    _compile(_QUOTIENTS, path)
    return int(ctypes.CDLL(str(path)).wrong_quotients(bits))


def _compile(text: str, path: Path, options: tuple[str, ...] = ()) -> None:
    """A library of a source; warnings are errors, so that the sources stay clean."""
    if path.exists():
        return
    subprocess.run(
        [
            "g++", "-x", "c++", "-", "-O1", "-shared", "-fPIC", "-frounding-math", "-Wall",
            "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-variable",
            f"-I{HERE}", f"-I{FOLDER}", *options, "-o", str(path),
        ],
        input=text, text=True, check=True, timeout=900,
    )  # fmt: skip


def quantize(
    x: np.ndarray, *, block: tuple[int, int], transposed: bool, config: dict[str, int], **rest: Any
) -> dict[str, np.ndarray]:
    """``quantize_blocks.launch`` on the CPU, what it writes by its argument's name."""
    rows, cols = x.shape
    grid = -(-rows // block[0]), -(-cols // block[1]) if block[1] else 1
    written = {"codes": poisoned(x.shape, "int8"), "scales": poisoned(grid, "float32")}
    if transposed:
        written["codes_t"] = poisoned((cols, rows), "int8")
        written["scales_t"] = poisoned(grid[::-1], "float32")
    views: dict[str, Any] = {name: HostArray(array) for name, array in {"x": x, **written}.items()}
    options, ctas, parameters = quantize_blocks.prepare(
        **views, target="int8", block=block, config=config, **rest
    )
    run(quantize_blocks.SOURCE, options, ctas, config["threads"], parameters)
    return written


def transpose(codes: np.ndarray, config: dict[str, int]) -> np.ndarray:
    """``transpose_codes.launch`` on the CPU."""
    out = poisoned(codes.shape[::-1], "uint8")
    views: dict[str, Any] = {"codes": HostArray(codes), "out": HostArray(out)}
    options, ctas, parameters = transpose_codes.prepare(**views, config=config)
    run(transpose_codes.SOURCE, options, ctas, 32 * config["num_warps"], parameters)
    return out
