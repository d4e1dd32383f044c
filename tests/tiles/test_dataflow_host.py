"""The dataflow kernels run on the CPU, judged against the float64 reference."""

import shutil

import numpy as np
import pytest
from dataflow_on_host import Case, judge

from tiles.kernels.cuda import dataflow_rows
from tiles.problems import DATAFLOW_OPS

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

#: Of operators that see a block: a warp a block, some lanes, several warps.
WARP = {"threads": 64, "lanes": 32, "steps": 2, "ctas": 1}
SHORT = {"threads": 64, "lanes": 4, "steps": 1, "ctas": 1}
SPREAD = {"threads": 128, "lanes": 64, "steps": 1, "ctas": 1}
#: Of operators that need rows: two CTAs a cluster, one, some lanes a block, several warps.
PAIR = {"threads": 64, "lanes": 32, "rows": 32, "splits": 2, "clusters": 2, "ctas": 1}
ALONE = PAIR | {"splits": 1, "clusters": 1}
WALK = PAIR | {"clusters": 3}
SHORT_PAIR = {"threads": 64, "lanes": 4, "rows": 4, "splits": 2, "clusters": 2, "ctas": 1}
SPREAD_ROWS = {"threads": 128, "lanes": 128, "rows": 128, "splits": 1, "clusters": 1, "ctas": 1}
CASES = (
    ("silu-bwd", "int8.b1x128+sr", (20, 384), SHORT),
    ("relu", "int8.b32x32+sr", (40, 51), WARP),
    ("silu", "int8.b32x32+sr", (64, 256), WARP),
    ("layernorm", "int8.b32x32", (40, 77), ALONE),
    ("rmsnorm-bwd", "int8.b32x32", (40, 96), ALONE),
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
    ("relu", "int8.b32x32+sr", (96, 64), WARP),
    ("relu", "int8.b32x32", (64, 96), WARP | {"lanes": 16}),
    ("relu-bwd", "int8.b32x32+sr", (96, 64), WARP | {"lanes": 16}),
    ("dropout", "int8.b32x32+sr", (64, 96), WARP),
    ("silu-bwd", "int8.b32x32+sr", (64, 96), WARP | {"lanes": 16}),
    ("gelu-bwd", "int8.b64x64+sr", (64, 192), SPREAD | {"lanes": 128}),
    ("silu", "e4m3fn.b32x32+sr", (64, 96), WARP),
    ("gelu-bwd", "e4m3fn.b32x32", (70, 80), WARP),
    ("residual", "int8.b32x32+sr", (70, 144), PAIR),
    ("residual", "e4m3fn.b1x128+sr", (9, 272), SHORT_PAIR),
    ("residual", "int8.b128x128", (130, 160), SPREAD_ROWS),
    ("layernorm", "int8.b32x32+sr", (70, 144), PAIR),
    ("layernorm", "e4m3fn.b1x128", (9, 272), SHORT_PAIR),
    ("rmsnorm", "int8.b1x128+sr", (9, 400), SHORT_PAIR),
    ("layernorm", "int8.b32x32+sr", (256, 256), WALK),
    ("layernorm", "int8.b32x32+sr", (192, 512), WALK | {"threads": 256, "clusters": 2}),
    ("layernorm-bwd", "int8.b32x32+sr", (192, 512), PAIR | {"threads": 256}),
    ("rmsnorm", "int8.b32x32", (100, 144), WALK),
    ("residual", "int8.b32x32+sr", (64, 256), PAIR),
    ("residual", "int8.b1x128", (17, 400), SHORT_PAIR | {"lanes": 8, "splits": 1}),
    ("layernorm-bwd", "int8.b32x32+sr", (128, 256), PAIR),
    ("layernorm-bwd", "int8.b1x128+sr", (24, 1600), SHORT_PAIR),
    ("rmsnorm-bwd", "int8.b64x64", (128, 320), SPREAD_ROWS | {"rows": 64, "lanes": 64}),
    ("layernorm-bwd", "int8.b128x128", (130, 384), SPREAD_ROWS | {"threads": 256, "lanes": 256}),
    ("layernorm-bwd", "int8.b32x32+sr", (100, 144), PAIR),
    ("layernorm-bwd", "int8.b1x128", (9, 143), SHORT_PAIR),
    ("rmsnorm-bwd", "e4m3fn.b1x128+sr", (9, 272), SHORT_PAIR),
    # A thread alone for a block, lanes of half a row, several warps a block, blocks of whole rows.
    ("layernorm-bwd", "int8.b1x16+sr", (9, 144), SHORT_PAIR | {"lanes": 1}),
    ("layernorm", "int8.b1x512", (9, 1024), SHORT_PAIR | {"lanes": 16}),
    ("residual", "int8.b1x1024+sr", (5, 2048), SHORT_PAIR | {"lanes": 32, "rows": 2}),
    ("gelu", "int8.b1x1024", (5, 2048), SPREAD),
    ("gelu", "int8.b1x1024+sr", (5, 1030), SHORT | {"lanes": 16}),
    ("silu-bwd", "int8.b32x32", (5, 7), WARP),
    # Warps of whole lines in clusters: one row group in memory and two, several tiles a warp.
    ("residual", "int8.b32x32+sr", (96, 1024), PAIR),
    ("residual", "e4m3fn.b16x64+sr", (48, 512), ALONE | {"rows": 16}),
    ("layernorm", "int8.b32x32+sr", (96, 512), PAIR),
    ("layernorm", "int8.b32x32+sr", (192, 1024), WALK),
    ("rmsnorm", "int8.b32x32", (64, 256), ALONE),
    ("rmsnorm", "int8.b16x64+sr", (48, 512), PAIR | {"rows": 16}),
    ("layernorm-bwd", "int8.b32x32+sr", (160, 1024), PAIR),
    ("rmsnorm-bwd", "int8.b32x32+sr", (96, 512), ALONE),
    ("layernorm-bwd", "e4m3fn.b32x32+sr", (64, 512), PAIR | {"clusters": 1}),
    ("layernorm-bwd", "int8.b32x16+sr", (64, 512), PAIR),
    ("rmsnorm-bwd", "int8.b16x64", (48, 512), ALONE | {"rows": 16}),
    # Warps of whole lines: one tile each, several, blocks of other shapes.
    ("relu", "int8.b32x32+sr", (160, 384), WARP),
    ("gelu", "int8.b32x32+sr", (96, 256), WARP | {"steps": 1}),
    ("gelu-bwd", "int8.b32x32+sr", (96, 384), WARP),
    ("silu-bwd", "int8.b16x64+sr", (48, 384), WARP),
    ("relu-bwd", "int8.b32x32+sr", (64, 384), WARP | {"steps": 1}),
    ("dropout", "int8.b64x16+sr", (128, 384), WARP),
    ("dropout", "int8.b32x32", (64, 256), WARP | {"threads": 32}),
    ("layernorm-apply", "int8.b32x32+sr", (96, 384), WARP),
    ("rmsnorm-apply", "int8.b8x64+sr", (40, 256), WARP | {"steps": 3}),
    ("layernorm-apply", "e4m3fn.b32x32+sr", (64, 256), WARP),
    ("silu", "e4m3fn.b32x32+sr", (64, 256), WARP),
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


@pytest.mark.parametrize(
    ("op", "fmt", "shape", "config"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)],
)
def test_kernel_agrees_with_the_reference(
    op: str, fmt: str, shape: tuple[int, int], config: dict[str, int]
) -> None:
    """The first operands are nasty; rows get others with a mean a thousand deviations away too."""
    count, row_vectors, _ = DATAFLOW_OPS[op]
    matrices = [nasty(*shape, seed) for seed in range(count)]
    # A NaN would be in whole rows of blocks (statistics), or in every sum over rows.
    if op.endswith("-apply") or (row_vectors and op.endswith("-bwd")):
        matrices = [np.nan_to_num(m, nan=1, posinf=2) for m in matrices]
    probability = 0.25 if op == "dropout" else 0.0
    case = Case(op=op, format=fmt, shape=shape, config=config, probability=probability)
    assert judge(case, matrices) == ""
    if "splits" in config:
        rng = np.random.default_rng(1)
        far = [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]
        far[0] += np.float32(1000)
        assert judge(case, far) == ""


def test_sums_of_plain_gradients_are_made_where_they_are_asked_for() -> None:
    assert [dataflow_rows.sum_ctas(100, plain=plain) for plain in (False, True)] == [4, 7]


@pytest.mark.slow
def test_the_largest_numbers_keep_their_codes() -> None:
    """Beyond 2^126 the reciprocal of a block's largest value is subnormal."""
    shape, rng = (32, 96), np.random.default_rng(0)
    terms = [rng.uniform(0.5, 1.6, shape).astype(np.float32) * np.float32(1e38) for _ in range(2)]
    case = Case(op="residual", format="int8.b32x32", shape=shape, config=ALONE)
    assert judge(case, terms) == ""


@pytest.mark.slow
def test_statistics_of_equal_rows_have_no_variance() -> None:
    """int8 sums are exact: a row of one code has the variance 0, whatever its mean."""
    shape = (32, 96)
    levels = np.repeat(np.arange(1, 33, dtype=np.float32)[:, None] * 1e4, 96, axis=1)
    case = Case(op="residual", format="int8.b32x32", shape=shape, config=ALONE)
    assert judge(case, [levels, np.zeros(shape, np.float32)]) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "config", "odd"),
    [
        ("relu", WARP, "x"),
        ("gelu-bwd", WARP, "dy"),
        ("residual", PAIR, "other"),
        ("layernorm", PAIR, "out"),
        ("rmsnorm-bwd", PAIR, "x"),
    ],
)
def test_what_begins_at_an_odd_address_moves_no_lines(
    op: str, config: dict[str, int], odd: str
) -> None:
    """Of a shape whose lines warps move where they can."""
    shape, rng = (64, 256), np.random.default_rng(2)
    matrices = [rng.standard_normal(shape).astype(np.float32) for _ in range(DATAFLOW_OPS[op][0])]
    case = Case(op=op, format="int8.b32x32+sr", shape=shape, config=config, odd=odd)
    assert judge(case, matrices) == ""
