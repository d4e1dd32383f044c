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
    """A launch on the CPU; warnings are errors, so that the sources stay clean."""
    path = Path(folder().name) / f"kernel{abs(hash((source, options)))}.so"
    if not path.exists():
        subprocess.run(
            [
                "g++", "-x", "c++", "-", "-O1", "-shared", "-fPIC", "-frounding-math", "-Wall",
                "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-variable",
                f"-I{HERE}", f"-I{FOLDER}", *options, "-o", str(path),
            ],
            input=_MAIN.format(source=source, kernel=source.removesuffix(".cu")), text=True,
            check=True, timeout=900,
        )  # fmt: skip
    made = ctypes.CDLL(str(path))
    held = np.array(parameters)
    made.parameter_bytes.restype = ctypes.c_uint64
    assert made.parameter_bytes() == held.nbytes
    made.run_on_host(ctypes.c_void_p(held.ctypes.data), ctas, threads)


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
