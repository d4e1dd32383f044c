"""Which problems belong to which row of the table of ratios, and what is asked of them."""

from pathlib import Path

import pytest

from bench.reach import ROWS, rows_of
from bench.shapes import LARGE_BYTES, LARGE_LAYERS, SHAPES, SMALL_LAYERS, WGRAD
from sim import load_gpu
from tiles.kernels import kernels
from tiles.problems import parse_problem
from workbench.sweepfile import load_sweepfile

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("kernels*.yaml"))
#: What a measurement of a sweep takes, checking included, and what a call may last.
SECONDS_A_MEASUREMENT, SECONDS_A_CALL = 0.35, 480
WGRAD_BF16 = "weight gradient, int8 and e4m3fn 128x128, bf16 out"
BF16 = "bf16"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gemm:4096x4096x4096:bf16:bf16", [BF16]),
        ("gemm:16x8192x8192:e4m3-row:bf16", ["e4m3fn per row"]),
        ("gemm:4096x2112x7168:deepseek-fp8:bf16", ["e4m3fn 1x128 / 128x128"]),
        ("gemm:64x24576x1536:int8-row:bf16", ["int8 per row, bf16 out"]),
        ("gemm:16x8192x8192:int8-row:bf16", []),  # the peer takes more than 16 rows
        ("gemm:128x7168x2048:int8-b128:bf16", ["int8 128x128, bf16 out"]),
        # A square is a layer and a weight gradient: two peers.
        ("gemm:4096x4096x4096:int8-b128:bf16", ["int8 128x128, bf16 out", WGRAD_BF16]),
        ("gemm:14336x4096x4096:e4m3-b128:bf16", [WGRAD_BF16]),
        (
            "gemm:3072x768x2048:int8-b128:fp32",
            ["weight gradient, int8 and e4m3fn 128x128, fp32 out"],
        ),
        ("gemm:4096x4096x4096:jetfire:int8.b32x32+sr", ["int8 32x32, int8 + scales out"]),
        ("gemm:4096x4096x4096:jetfire:bf16", ["int8 32x32, bf16 out"]),
        ("gemm:4096x4096x4096:jetfire:fp32", ["weight gradient, int8 32x32, fp32 out"]),
        ("gemm:4096x4096x4096:jetfire-64:int8.b64x64", ["int8 64x64, int8 + scales out"]),
        ("gemm:128x7168x2048:mxfp8-e4m3:bf16", ["mxfp8 e4m3fn"]),
        ("gemm:64x24576x1536:mxfp8-e4m3:bf16", ["mxfp8 e4m3fn, M <= 64"]),
        ("gemm:8x28672x4096:w4a16-g128:bf16", ["w4a16 g128, >= 64 MiB in bf16"]),
        ("gemm:8x4096x4096:w4a16-g128:bf16", ["w4a16 g128, smaller"]),
        (
            "grouped_gemm:8x32768x4096x7168:deepseek-fp8:padded.128:bf16",
            ["grouped e4m3fn 1x128 / 128x128"],
        ),
        ("quantize:8192x8192:int8.row:bf16", ["quantise, dequantise, transpose, >= 64 MiB"]),
        ("transpose:16384x4096:int8", ["quantise, dequantise, transpose, >= 64 MiB"]),
        ("dataflow:8192x8192:gelu:int8.b32x32+sr", ["INT8 dataflow, stochastic rounding"]),
        ("dataflow:8192x8192:gelu:int8.b32x32", []),
        ("gemm:4096x4096x4096:nvfp4:bf16", ["formats that the tensor cores lack"]),
        ("gemm:4096x4096x4096:e5m2-row:bf16", []),
        ("gemm:4096x4096x4104:bf16:bf16", []),
    ],
)
def test_every_problem_has_its_rows(text: str, names: list[str]) -> None:
    assert [row.name for row in rows_of(parse_problem(text))] == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gemm:4096x4096x4104:bf16:bf16", [BF16]),
        ("gemm:16x4096x4104:int8-row:bf16", []),
        ("gemm:17x4096x4104:int8-row:bf16", ["int8 per row, bf16 out"]),
        ("gemm:64x4096x4104:mxfp8-e4m3:bf16", ["mxfp8 e4m3fn, M <= 64"]),
        ("gemm:65x4096x4104:mxfp8-e4m3:bf16", ["mxfp8 e4m3fn"]),
        ("gemm:4x8192x4096:w4a16-g128:bf16", ["w4a16 g128, >= 64 MiB in bf16"]),
        ("gemm:4x8192x4088:w4a16-g128:bf16", ["w4a16 g128, smaller"]),
        (
            "grouped_gemm:4x512x256x256:deepseek-fp8:masked.256:bf16",
            ["grouped e4m3fn 1x128 / 128x128"],
        ),
        ("gemm:4096x4096x4104:e5m2-row:bf16", []),
    ],
)
def test_other_shapes_of_the_same_formats_may_be_asked_for(text: str, names: list[str]) -> None:
    problem = parse_problem(text)
    assert rows_of(problem) == ()
    assert [row.name for row in rows_of(problem, any_shape=True)] == names


def test_every_problem_of_a_row_is_a_problem_that_a_kernel_serves() -> None:
    limits = load_gpu("h200").limits
    for row in ROWS:
        assert len(set(row.problems)) == len(row.problems)
        for text in row.problems:
            problem = parse_problem(text)
            assert str(problem) == text
            assert any(k.refusal(problem, limits) is None for k in kernels().values()), text


def test_layers_are_large_or_not() -> None:
    assert len(LARGE_LAYERS) == 6
    assert all(2 * n * k >= LARGE_BYTES for n, k in LARGE_LAYERS)
    assert all(2 * n * k < LARGE_BYTES for n, k in SMALL_LAYERS)


def test_weight_gradients_turn_the_layers_round() -> None:
    # Of (M, N, K) the gradient of the N x K weight contracts the M tokens.
    assert set(WGRAD) == {(n, k, m) for m, n, k in SHAPES if m >= 2048}
    row = next(row for row in ROWS if row.name == WGRAD_BF16)
    short = parse_problem("gemm:3072x768x2048:int8-b128:bf16")
    assert [goal.worst for goal in row.goals if goal.takes(short)] == [1.1]
    assert "not counted" in row.note


@pytest.mark.parametrize(
    ("m", "asked"), [(1, [3.0]), (8, [3.0]), (9, []), (32, [2.2]), (2047, []), (2048, [0.8])]
)
def test_goals_take_the_problems_that_they_name(m: int, asked: list[float]) -> None:
    problem = parse_problem(f"gemm:{m}x28672x4096:w4a16-g128:bf16")
    row = next(row for row in ROWS if row.name == "w4a16 g128, >= 64 MiB in bf16")
    found = [goal.geomean for goal in row.goals if goal.takes(problem)]
    assert [goal for goal in found if goal is not None] == asked


def test_the_examples_sweep_the_whole_table() -> None:
    swept = {str(p) for path in EXAMPLES for p in load_sweepfile(path).problems()}
    listed = {text for row in ROWS for text in row.problems}
    assert listed - swept == set()
    # int8 per row has no rival at 16 rows; a sweep file takes all recipes of a shape.
    assert swept - listed == {"gemm:16x8192x8192:int8-row:bf16"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_fits_a_call_of_eight_minutes(path: Path) -> None:
    sweep = load_sweepfile(path)
    assert sweep.unserved() == []
    measurements = len(sweep.studies()) * sweep.search.max_measurements
    assert measurements * SECONDS_A_MEASUREMENT <= SECONDS_A_CALL, len(sweep.studies())
    assert sweep.search.time_limit == "7m"
    assert str(sweep.output) == f"runs/{path.stem}"
