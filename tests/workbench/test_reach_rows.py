"""Which problems belong to which row of the table of ratios, and what is asked of them."""

from pathlib import Path

import pytest

from bench.reach import ROWS, SHAPES, row_of
from tiles.problems import Gemm, parse_problem
from workbench.sweepfile import load_sweepfile

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gemm:4096x4096x4096:bf16:bf16", "bf16"),
        ("gemm:16x8192x8192:e4m3-row:bf16", "e4m3fn per row"),
        ("gemm:4096x2112x7168:deepseek-fp8:bf16", "e4m3fn 1x128 / 128x128"),
        ("gemm:64x24576x1536:int8-row:bf16", "int8 per row, bf16 out"),
        ("gemm:16x8192x8192:int8-row:bf16", None),  # the peer takes more than 16 rows
        ("gemm:128x7168x2048:int8-b128:bf16", "int8 128x128, bf16 out"),
        ("gemm:4096x4096x4096:int8-b128:fp32", "weight gradient, int8 and e4m3fn 128x128"),
        ("gemm:4096x4096x4096:jetfire:bf16", "int8 32x32"),
        ("gemm:128x7168x2048:mxfp8-e4m3:bf16", "mxfp8 e4m3fn"),
        ("gemm:64x24576x1536:mxfp8-e4m3:bf16", "mxfp8 e4m3fn, M <= 64"),
        ("gemm:8x28672x4096:w4a16-g128:bf16", "w4a16 g128, >= 64 MiB in bf16"),
        ("gemm:8x8192x4096:w4a16-g128:bf16", "w4a16 g128, >= 64 MiB in bf16"),
        ("gemm:8x4096x4096:w4a16-g128:bf16", "w4a16 g128, smaller"),
        (
            "grouped_gemm:8x32768x4096x7168:deepseek-fp8:padded.128:bf16",
            "grouped e4m3fn 1x128 / 128x128",
        ),
        ("grouped_gemm:8x32768x4096x7168:bf16:padded.128:bf16", None),
        ("quantize:8192x4096:int8.row:bf16", "quantise, dequantise, transpose, >= 64 MiB"),
        ("quantize:8192x4000:int8.row:bf16", None),
        ("dequantize:8192x4096:int8.row:bf16", "quantise, dequantise, transpose, >= 64 MiB"),
        ("transpose:8192x8192:int8", "quantise, dequantise, transpose, >= 64 MiB"),
        ("transpose:8192x4096:int8", None),
        ("dataflow:8192x8192:gelu:int8.b32x32+sr", "INT8 dataflow, stochastic rounding"),
        ("dataflow:8192x8192:gelu:int8.b32x32", None),
        ("dataflow:8192x8192:gelu:e4m3fn.b32x32+sr", None),
        ("gemm:4096x4096x4096:e5m2-row:bf16", None),
    ],
)
def test_every_problem_has_its_row(text: str, name: str | None) -> None:
    row = row_of(parse_problem(text))
    assert (row and row.name) == name


def test_rows_of_listed_shapes_take_no_other_shape() -> None:
    other = parse_problem("gemm:4096x4096x4104:bf16:bf16")
    assert row_of(other) is None
    assert row_of(other, None) is ROWS[0]
    assert row_of(other, [(4096, 4096, 4104)]) is ROWS[0]
    assert row_of(parse_problem("gemm:4096x4096x4096:bf16:bf16"), [(1, 1, 1)]) is None
    # Layers and experts have shapes of their own.
    assert row_of(parse_problem("gemm:7x4096x4096:w4a16-g128:bf16"), [(1, 1, 1)]) is not None


def test_no_problem_belongs_to_two_rows() -> None:
    for recipe in ("bf16", "e4m3-row", "int8-row", "int8-b128", "mxfp8-e4m3", "w4a16-g128"):
        for m in (1, 16, 17, 64, 65, 2048):
            for n in (4096, 16384):
                problem = parse_problem(f"gemm:{m}x{n}x4096:{recipe}:bf16")
                assert sum(row.takes(problem) for row in ROWS) <= 1, problem


@pytest.mark.parametrize(
    ("m", "asked"), [(1, [3.0]), (8, [3.0]), (9, []), (32, [2.2]), (2047, []), (2048, [0.8])]
)
def test_goals_take_the_problems_that_they_name(m: int, asked: list[float]) -> None:
    problem = parse_problem(f"gemm:{m}x28672x4096:w4a16-g128:bf16")
    row = row_of(problem)
    assert row is not None
    assert [goal.geomean for goal in row.goals if goal.takes(problem)] == asked


def test_the_example_sweeps_every_listed_product() -> None:
    problems = load_sweepfile(EXAMPLES / "kernels.yaml").problems()
    recipes = ("bf16", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b128")
    assert {str(p) for p in problems} == {
        f"gemm:{m}x{n}x{k}:{name}:bf16" for m, n, k in SHAPES for name in recipes
    }
    left_out = [str(p) for p in problems if row_of(p) is None]
    assert left_out == ["gemm:16x8192x8192:int8-row:bf16"]


def test_the_example_of_weight_gradients_turns_the_layers_round() -> None:
    sweep = load_sweepfile(EXAMPLES / "kernels-wgrad.yaml")
    problems = [p for p in sweep.problems() if isinstance(p, Gemm)]
    # Of (M, N, K) the gradient of the N x K weight contracts the M tokens.
    training = {(n, k, m) for m, n, k in SHAPES if m >= 2048}
    assert {p.shape for p in problems} == training
    assert {row.name for p in problems if (row := row_of(p))} == {
        "weight gradient, int8 and e4m3fn 128x128"
    }
    assert sweep.unserved() == []


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("kernels-experts", {"grouped e4m3fn 1x128 / 128x128"}),
        (
            "kernels-memory",
            {
                "quantise, dequantise, transpose, >= 64 MiB",
                "INT8 dataflow, stochastic rounding",
            },
        ),
        ("kernels-weights", {"w4a16 g128, >= 64 MiB in bf16", "w4a16 g128, smaller"}),
    ],
)
def test_every_problem_of_the_other_examples_belongs_to_the_table(
    name: str, rows: set[str]
) -> None:
    sweep = load_sweepfile(EXAMPLES / f"{name}.yaml")
    found = {str(problem): row_of(problem) for problem in sweep.problems()}
    assert None not in found.values(), [text for text, row in found.items() if row is None]
    assert {row.name for row in found.values() if row} == rows
    assert sweep.unserved() == []
