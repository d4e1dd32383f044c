"""What a launch of a product with outliers apart refuses before anything runs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch

from tiles.kernels.triton import gemm_outliers
from tiles.kernels.triton.outlier_operands import FallbackBlocks, KeptColumns

M, N, K = 40, 48, 96
CONFIG = {
    "block_m": 16,
    "block_n": 16,
    "block_k": 32,
    "outlier_k": 32,
    "group_m": 1,
    "num_warps": 4,
    "num_stages": 2,
    "tma": False,
}


def i8(*shape: int) -> Any:
    return torch.zeros(shape, dtype=torch.int8)


def i32(*shape: int) -> Any:
    return torch.zeros(shape, dtype=torch.int32)


def half(*shape: int) -> Any:
    return torch.zeros(shape, dtype=torch.float16)


KEPT = KeptColumns(a=half(M, 64), b=half(N, 64), count=i32(1))
BLOCKS = FallbackBlocks(codes=i8(2, 32, 32), scales=torch.ones(2), columns=i32(2), offsets=i32(3))


def columns(**given: Any) -> None:
    call = {
        "a": i8(M, K),
        "b": i8(N, K),
        "c": torch.empty(M, N),
        "a_scale": torch.ones(M, 1),
        "b_scale": torch.ones(1, 1),
        "outliers": KEPT,
        "a_block": (1, 0),
        "b_block": (0, 0),
        "config": CONFIG,
        **given,
    }
    gemm_outliers.launch(**call)


def blocks(**given: Any) -> None:
    call = {
        "a_scale": torch.ones(2, 3),
        "b_scale": torch.ones(3, 3),
        "outliers": BLOCKS,
        "a_block": (32, 32),
        "b_block": (16, 32),
        **given,
    }
    columns(**call)


CASES: dict[str, tuple[Callable[[], None], type[Exception], str]] = {
    "dtype of a": (
        lambda: columns(a=half(M, K)),
        TypeError,
        "a has dtype torch.float16: it must be torch.int8",
    ),
    "dtype of c": (
        lambda: columns(c=torch.empty(M, N, dtype=torch.float64)),
        TypeError,
        "c has dtype torch.float64",
    ),
    "strides": (lambda: columns(b=i8(K, N).T), ValueError, "b has stride 48 along its last extent"),
    "empty": (lambda: columns(a=i8(0, K)), ValueError, "a must have 2 dimensions and elements"),
    "K": (lambda: columns(b=i8(N, K + 1)), ValueError, "a is 40 x 96 and b 48 x 97"),
    "shape of c": (lambda: columns(c=torch.empty(N, M)), ValueError, "c must be 40 x 48"),
    "dtype of scales": (
        lambda: columns(a_scale=half(M, 1)),
        TypeError,
        "a_scale has dtype torch.float16",
    ),
    "scale grid": (
        lambda: columns(b_scale=torch.ones(N, 1)),
        ValueError,
        r"b_scale must have shape \(1, 1\) for b_block \(0, 0\)",
    ),
    "negative block": (lambda: columns(a_block=(-1, 0)), ValueError, r"a_block \(-1, 0\): extents"),
    "blocks beside columns": (
        lambda: columns(a_block=(1, 32), a_scale=torch.ones(M, 3)),
        ValueError,
        r"a_block \(1, 32\): beside kept columns",
    ),
    "dtype of columns": (
        lambda: columns(outliers=replace(KEPT, a=torch.zeros(M, 64))),
        TypeError,
        r"outliers.a has dtype torch.float32",
    ),
    "two dtypes of columns": (
        lambda: columns(outliers=replace(KEPT, b=KEPT.b.to(torch.bfloat16))),
        TypeError,
        "outliers.a has dtype torch.float16 and outliers.b torch.bfloat16",
    ),
    "rows of columns": (
        lambda: columns(outliers=replace(KEPT, b=half(M, 64))),
        ValueError,
        "outliers.b must have 48 rows and a multiple of 64 columns",
    ),
    "capacity of columns": (
        lambda: columns(outliers=replace(KEPT, a=half(M, 16))),
        ValueError,
        "outliers.a must have 40 rows and a multiple of 64 columns",
    ),
    "two capacities": (
        lambda: columns(outliers=replace(KEPT, a=half(M, 128))),
        ValueError,
        "outliers.a has 128 columns and outliers.b 64",
    ),
    "dtype of the count": (
        lambda: columns(outliers=replace(KEPT, count=torch.zeros(1))),
        TypeError,
        "outliers.count has dtype torch.float32",
    ),
    "shape of the count": (
        lambda: columns(outliers=replace(KEPT, count=i32(2))),
        ValueError,
        r"outliers.count must have shape \(1,\)",
    ),
    "depth over columns": (
        lambda: columns(config={**CONFIG, "outlier_k": 128}),
        ValueError,
        "outlier_k = 128: over kept columns at most 64",
    ),
    "long sums": (
        lambda: columns(a=i8(M, 140000), b=i8(N, 140000)),
        ValueError,
        "int32 sums of int8 products could overflow",
    ),
    "config field": (
        lambda: columns(config={"block_m": 16}),
        ValueError,
        "config: wrong or missing field",
    ),
    "config value": (
        lambda: columns(config={**CONFIG, "block_k": 48}),
        ValueError,
        "block_k = 48: it must be a power of two",
    ),
    "raster group": (
        lambda: columns(config={**CONFIG, "group_m": 0}),
        ValueError,
        "group_m = 0: it must be at least 1",
    ),
    "rows of c": (
        lambda: columns(c=torch.empty(1, N).expand(M, N)),
        ValueError,
        "c has rows 0 apart, less than its 48 columns: they overlap",
    ),
    "rows and tma": (
        lambda: columns(a=i8(M, 100), b=i8(N, 100), config={**CONFIG, "tma": True}),
        ValueError,
        "a: rows start 100 B apart",
    ),
    "devices": (
        lambda: columns(outliers=replace(KEPT, count=i32(1).to("meta"))),
        ValueError,
        "outliers.count on meta, .*they must share one device",
    ),
    "rows beside blocks": (
        lambda: blocks(b_block=(1, 0), b_scale=torch.ones(N, 1)),
        ValueError,
        r"b_block \(1, 0\): beside fallback blocks",
    ),
    "tile over two blocks": (
        lambda: blocks(config={**CONFIG, "block_m": 64}),
        ValueError,
        r"block_m = 64: it must divide a_block \(32, 32\)",
    ),
    "tile over two blocks of b": (
        lambda: blocks(config={**CONFIG, "block_n": 32}),
        ValueError,
        r"block_n = 32: it must divide b_block \(16, 32\)",
    ),
    "depth over blocks": (
        lambda: blocks(config={**CONFIG, "outlier_k": 16}),
        ValueError,
        "outlier_k = 16: beside fallback blocks it must be block_k, 32",
    ),
    "shape of second codes": (
        lambda: blocks(outliers=replace(BLOCKS, codes=i8(2, 32, 64))),
        ValueError,
        r"outliers.codes must have shape \(2, 32, 32\)",
    ),
    "no room for a block": (
        lambda: blocks(outliers=replace(BLOCKS, codes=i8(0, 32, 32))),
        ValueError,
        "outliers.codes has room for no block",
    ),
    "strides of second codes": (
        lambda: blocks(outliers=replace(BLOCKS, codes=i8(2, 32, 32).transpose(1, 2))),
        ValueError,
        "outliers.codes has strides .*: it must be contiguous",
    ),
    "second scales": (
        lambda: blocks(outliers=replace(BLOCKS, scales=torch.ones(3))),
        ValueError,
        r"outliers.scales must have shape \(2,\)",
    ),
    "dtype of block columns": (
        lambda: blocks(outliers=replace(BLOCKS, columns=torch.zeros(2, dtype=torch.int64))),
        TypeError,
        "outliers.columns has dtype torch.int64",
    ),
    "offsets": (
        lambda: blocks(outliers=replace(BLOCKS, offsets=i32(2))),
        ValueError,
        r"outliers.offsets must have shape \(3,\)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_names_argument_and_rule(name: str) -> None:
    run, error, told = CASES[name]
    with pytest.raises(error, match=told):
        run()


def test_refuses_an_output_over_an_input() -> None:
    memory = torch.zeros(M * N + 4096)
    c = memory[: M * N].view(M, N)
    kept = replace(KEPT, a=memory.view(torch.float16)[: M * 64].view(M, 64))
    with pytest.raises(ValueError, match=r"c overlaps outliers\.a"):
        columns(c=c, outliers=kept)
    fallback = replace(BLOCKS, scales=memory[:2])
    with pytest.raises(ValueError, match=r"c overlaps outliers\.scales"):
        blocks(c=c, outliers=fallback)
