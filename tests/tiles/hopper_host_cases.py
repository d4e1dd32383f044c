"""Operands that Hopper's products are run with on the host."""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

DTYPES: dict[str, Any] = {
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "int8": np.int8,
}
#: Half an ulp of each output, relative; sums are exact but for promotion, in fp32.
ROUNDING = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-21}


def draw(rows: int, k: int, element: str, rng: np.random.Generator) -> NDArray[Any]:
    """Small integers, exact in every element, whose sums of products fp32 holds exactly."""
    return rng.integers(-7, 8, (rows, k)).astype(DTYPES[element])


def spread(scale: F64, rows: int, cols: int) -> F64:
    """One scale an element of (rows, cols)."""
    tall = np.repeat(scale, 128, 0) if scale.shape[0] not in (1, rows) else scale
    apart = 32 if scale.shape[1] == -(-cols // 32) else 128
    wide = np.repeat(tall, apart, 1) if scale.shape[1] > 1 else tall
    return np.broadcast_to(wide[:rows, :cols], (rows, cols))


def grids(m: int, n: int, k: int, scales: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    m_blocks, n_blocks, k_blocks = (-(-x // 128) for x in (m, n, k))
    known = {
        "none": None,
        "tensor": ((1, 1), (1, 1)),
        "row": ((m, 1), (n, 1)),
        "b1x128": ((m, k_blocks), (n_blocks, k_blocks)),
        "b128x128": ((m_blocks, k_blocks), (n_blocks, k_blocks)),
        "b1x128_b1x128": ((m, k_blocks), (n, k_blocks)),
        "mx": ((m, -(-k // 32)), (n, -(-k // 32))),
    }
    return known[scales]
