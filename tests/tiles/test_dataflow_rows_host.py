"""The dataflow kernel for whole rows run on the CPU, judged against the float64 reference."""

import shutil

import numpy as np
import pytest
from dataflow_on_host import Case, judge
from test_dataflow_blocks_host import nasty

from tiles.problems import DATAFLOW_OPS

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

PAIR = {"threads": 64, "lanes": 32, "rows": 32, "splits": 2, "clusters": 2, "ctas": 1}
ALONE = PAIR | {"splits": 1, "clusters": 1}
SHORT = {"threads": 64, "lanes": 4, "rows": 4, "splits": 2, "clusters": 2, "ctas": 1}
SPREAD = {"threads": 128, "lanes": 128, "rows": 128, "splits": 1, "clusters": 1, "ctas": 1}
CASES = (
    ("layernorm", "int8.b32x32", (40, 77), ALONE),
    ("rmsnorm-bwd", "int8.b32x32", (40, 96), ALONE),
)
SLOW_CASES = (
    ("residual", "int8.b32x32+sr", (70, 144), PAIR),
    ("residual", "e4m3fn.b1x128+sr", (9, 272), SHORT),
    ("residual", "int8.b128x128", (130, 160), SPREAD),
    ("layernorm", "int8.b32x32+sr", (70, 144), PAIR),
    ("layernorm", "e4m3fn.b1x128", (9, 272), SHORT),
    ("rmsnorm", "int8.b1x128+sr", (9, 400), SHORT),
    ("layernorm-bwd", "int8.b32x32+sr", (100, 144), PAIR),
    ("layernorm-bwd", "int8.b1x128", (9, 143), SHORT),
    ("rmsnorm-bwd", "e4m3fn.b1x128+sr", (9, 272), SHORT),
)


@pytest.mark.parametrize(
    ("op", "fmt", "shape", "config"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)],
)
def test_kernel_agrees_with_the_reference(
    op: str, fmt: str, shape: tuple[int, int], config: dict[str, int]
) -> None:
    """The first operands are nasty, the second run has a mean a thousand deviations away."""
    count = DATAFLOW_OPS[op][0]
    matrices = [nasty(*shape, seed) for seed in range(count)]
    if op.endswith("-bwd"):  # a NaN in one row would be in every sum over rows
        matrices = [np.nan_to_num(m, nan=1, posinf=2) for m in matrices]
    case = Case(op=op, format=fmt, shape=shape, config=config)
    assert judge(case, matrices) == ""
    rng = np.random.default_rng(1)
    far = [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]
    far[0] += np.float32(1000)
    assert judge(case, far) == ""


@pytest.mark.slow
def test_statistics_of_equal_rows_have_no_variance() -> None:
    """int8 sums are exact: a row of one code has the variance 0, whatever its mean."""
    shape = (32, 96)
    levels = np.repeat(np.arange(1, 33, dtype=np.float32)[:, None] * 1e4, 96, axis=1)
    case = Case(op="residual", format="int8.b32x32", shape=shape, config=ALONE)
    assert judge(case, [levels, np.zeros(shape, np.float32)]) == ""
