"""The blockwise dataflow kernel run on the CPU, judged against the float64 reference."""

import shutil

import numpy as np
import pytest
from dataflow_on_host import Case, judge

from tiles.problems import DATAFLOW_OPS

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

WARP = {"threads": 64, "lanes": 32, "steps": 2, "ctas": 1}
SHORT = {"threads": 64, "lanes": 4, "steps": 1, "ctas": 1}
SPREAD = {"threads": 128, "lanes": 64, "steps": 1, "ctas": 1}
CASES = (
    ("silu-bwd", "int8.b1x128+sr", (20, 384), SHORT),
    ("relu", "int8.b32x32+sr", (40, 51), WARP),
)
SLOW_CASES = (
    ("dropout", "e4m3fn.b1x128", (12, 133), SHORT),
    ("gelu", "int8.b32x32+sr", (96, 128), WARP),
    ("gelu-bwd", "int8.b32x32", (96, 128), WARP),
    ("silu", "int8.b32x32+sr", (70, 80), WARP),
    ("relu-bwd", "int8.b128x128", (130, 144), SPREAD),
    ("dropout", "int8.b32x32+sr", (70, 80), WARP),
    ("layernorm-apply", "int8.b32x32+sr", (70, 80), WARP),
    ("rmsnorm-apply", "int8.b1x128", (9, 135), SHORT),
    ("gelu", "e4m3fn.b1x128+sr", (12, 256), SHORT),
)


def nasty(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Blocks of zeros, of one sign, tiny, huge, an outlier, NaN or infinity among normal ones."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, cols)) * np.exp2(rng.integers(-3, 3, (rows, 1)))
    x[: rows // 4, : cols // 4] = 0
    x[: rows // 4, -cols // 4 :] = -abs(x[: rows // 4, -cols // 4 :]) - 3
    x[-rows // 4 :, : cols // 4] *= 1e-20
    x[-rows // 4 :, cols // 4 : cols // 2] *= 1e15
    x[rows // 2, cols // 2] = 1000
    x[rows // 3, cols - 1] = [np.nan, np.inf][seed % 2]
    x[-1, 1] = -0.0
    return x.astype(np.float32)


def run(op: str, fmt: str, shape: tuple[int, int], config: dict[str, int]) -> None:
    matrices = [nasty(*shape, seed) for seed in range(DATAFLOW_OPS[op][0])]
    if op.endswith("-apply"):  # statistics that are not finite poison whole rows of blocks
        matrices = [np.nan_to_num(m, nan=1, posinf=2) for m in matrices]
    probability = 0.25 if op == "dropout" else 0.0
    case = Case(op=op, format=fmt, shape=shape, config=config, probability=probability)
    assert judge(case, matrices) == ""


@pytest.mark.parametrize(
    ("op", "fmt", "shape", "config"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)],
)
def test_kernel_agrees_with_the_reference(
    op: str, fmt: str, shape: tuple[int, int], config: dict[str, int]
) -> None:
    run(op, fmt, shape, config)
