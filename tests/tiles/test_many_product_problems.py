"""Batches and groups of products: texts, extents, and what is refused."""

import numpy as np
import pytest

from tiles.problems import (
    BatchedGemm,
    GroupedGemm,
    GroupLayout,
    RowOrder,
    SecondOperand,
    parse_problem,
)
from tiles.recipes import recipe

LAYOUTS = ("contiguous", "padded.128", "masked.512", "gathered.8")


def grouped(text: str) -> GroupedGemm:
    problem = parse_problem(f"grouped_gemm:{text}")
    assert isinstance(problem, GroupedGemm)
    return problem


@pytest.mark.parametrize("layout", LAYOUTS)
def test_grouped_text_round_trips(layout: str) -> None:
    problem = grouped(f"32x4096x4096x7168:deepseek-fp8:{layout}:bf16")
    assert parse_problem(str(problem)) == problem
    assert str(problem.layout) == layout
    assert problem.shape == (32, 4096, 4096, 7168)
    assert problem.tokens == 4096
    assert problem.with_tokens(8192).shape == (32, 8192, 4096, 7168)
    assert problem.resized(16, 64, 128, 256).shape == (16, 64, 128, 256)


@pytest.mark.parametrize("second", SecondOperand)
def test_batched_text_round_trips(second: SecondOperand) -> None:
    problem = BatchedGemm(
        batch=12, m=512, n=64, k=128, recipe=recipe("e4m3-row"), second=second, out="fp32"
    )
    assert str(problem) == f"batched_gemm:12x512x64x128:e4m3-row:{second.value}:fp32"
    assert parse_problem(str(problem)) == problem
    assert problem.flops == 12 * problem.single.flops
    assert problem.min_bytes == 12 * problem.single.min_bytes
    assert problem.with_tokens(7).shape == (12, 7, 64, 128)
    assert problem.resized(1, 2, 3, 4).shape == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("layout", "a_rows", "c_rows", "top_k"),
    [
        ("contiguous", 800, 800, 1),
        # At most (size - 1) rows of padding for each of 4 experts, in whole blocks.
        ("padded.128", (800 + 4 * 127) // 128 * 128, (800 + 4 * 127) // 128 * 128, 1),
        ("masked.512", 2048, 2048, 1),
        ("gathered.2", 400, 800, 2),
    ],
)
def test_rows_in_memory_follow_the_layout(
    layout: str, a_rows: int, c_rows: int, top_k: int
) -> None:
    problem = grouped(f"4x800x256x512:bf16:{layout}:bf16")
    assert (problem.a_rows, problem.c_rows, problem.top_k) == (a_rows, c_rows, top_k)
    assert problem.flops == 2 * 800 * 256 * 512
    assert problem.min_bytes == 2 * (800 // top_k * 512 + 4 * 256 * 512 + 800 * 256)


def test_experts_without_rows_are_not_read() -> None:
    few = grouped("256x8x256x512:bf16:contiguous:bf16")
    assert few.min_bytes == 2 * (8 * 512 + 8 * 256 * 512 + 8 * 256)
    assert 7.8 < few.expected_active < 8
    assert grouped("1x8x256x512:bf16:contiguous:bf16").expected_active == 1


@pytest.mark.parametrize(
    ("experts", "m", "height"), [(8, 1000, 64), (32, 100, 16), (256, 8192, 64)]
)
def test_expected_tiles_are_the_mean_of_drawn_ones(experts: int, m: int, height: int) -> None:
    problem = grouped(f"{experts}x{m}x256x512:bf16:contiguous:bf16")
    draws = np.random.default_rng(0).multinomial(m, [1 / experts] * experts, size=4000)
    tiles = (-(-draws // height)).sum(axis=1)
    error = tiles.std() / np.sqrt(len(tiles))
    # Rare counts may be missing from all draws.
    assert abs(problem.expected_tiles(height) - tiles.mean()) < 5 * error + 1e-3


def test_one_expert_has_the_tiles_of_a_plain_product() -> None:
    assert grouped("1x1000x256x512:bf16:contiguous:bf16").expected_tiles(64) == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4x800x256x512:bf16:sorted:bf16", "layout 'sorted': write e.g. contiguous"),
        ("4x800x256x512:bf16:masked:bf16", "layout 'masked'"),
        ("4x800x256x512:bf16:contiguous.2:bf16", "layout 'contiguous.2'"),
        ("4x800x256x512:bf16:masked.0:bf16", "layout masked of 0"),
        ("4x800x256x512:bf16:masked.199:bf16", "4 experts of 199 rows do not hold it"),
        ("4x802x256x512:bf16:gathered.4:bf16", "M = 802 must be a multiple of 4"),
        ("4x800x256x512:bf16:gathered.5:bf16", "different experts of 4"),
        ("4x800x256:bf16:contiguous:bf16", "write 4 integers joined by x"),
        ("0x800x256x512:bf16:contiguous:bf16", "E = 0: a dimension"),
        ("4x800x256x512:bf16:contiguous:int8", "output format 'int8'"),
        ("4x800x256x512:bf16:bf16", "problem .*: write gemm:MxNxK"),
    ],
)
def test_impossible_groups_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_problem(f"grouped_gemm:{text}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2x3x4:bf16:nk:bf16", "write 4 integers"),
        ("2x3x4x5:bf16:nn:bf16", "second operand 'nn': choose one of nk, kn"),
        ("2x3x4x5:bf16:nk:int8", "output format 'int8'"),
        ("16777216x16777216x4x5:bf16:nk:bf16", "A of .* takes"),
    ],
)
def test_impossible_batches_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_problem(f"batched_gemm:{text}")


def test_a_layout_has_a_number_where_it_needs_one() -> None:
    assert GroupLayout(order=RowOrder.CONTIGUOUS) == GroupLayout.parse("contiguous")
    with pytest.raises(ValueError, match="layout contiguous of 2"):
        GroupLayout(order=RowOrder.CONTIGUOUS, size=2)
