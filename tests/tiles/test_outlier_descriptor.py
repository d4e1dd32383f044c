"""What the family of products with outliers apart serves, its space, its rules and its defaults."""

from dataclasses import replace

import numpy as np
import pytest

from sim import gpu_names, load_gpu
from tiles.formats import element
from tiles.kernels import Accepted, NumericPath, Rejected, kernel, kernels
from tiles.kernels.outlier_gemm import (
    OutlierGemmConfig,
    TritonOutlierGemm,
    expected_columns,
    fallback_capacity,
)
from tiles.problems import Gemm, Quantize
from tiles.recipes import RECIPES, OutlierBlocks, OutlierColumns, Recipe, recipe

FAMILY = TritonOutlierGemm()
H200 = load_gpu("h200")
BASE = OutlierGemmConfig(
    block_m=64,
    block_n=128,
    block_k=64,
    outlier_k=64,
    group_m=1,
    num_warps=4,
    num_stages=3,
    tma=False,
)
COLUMNS = OutlierColumns()
BLOCKS = OutlierBlocks(share=0.2)


def gemm(
    activation: str,
    outliers: OutlierColumns | OutlierBlocks | None,
    weight: str | None = None,
    m: int = 4096,
    n: int = 4096,
    k: int = 4096,
) -> Gemm:
    pair = Recipe.of(
        "pair", activation=activation, weight=weight, outliers=outliers, source="a test"
    )
    return Gemm(m=m, n=n, k=k, recipe=pair)


def test_is_registered() -> None:
    assert isinstance(kernel("triton_outlier_gemm"), TritonOutlierGemm)
    assert FAMILY.template.is_file()


@pytest.mark.parametrize(
    "gpu", ["h20", "h200", "b200", "b300", "a100", "l40s", "rtx3090", "rtx4090"]
)
def test_every_recipe_has_a_kernel(gpu: str) -> None:
    limits = load_gpu(gpu).limits
    for name, one in RECIPES.items():
        problem = Gemm(m=256, n=256, k=256, recipe=one)
        serving = [f.name for f in kernels().values() if f.refusal(problem, limits) is None]
        assert serving, name
        # No family computes outliers as if they were none.
        assert ("triton_outlier_gemm" in serving) == (one.outliers is not None), name


@pytest.mark.parametrize(
    ("activation", "outliers", "weight"),
    [
        ("int8.row", COLUMNS, "int8.row"),
        ("int8.tensor", COLUMNS, "int8.row"),
        ("int8.row", OutlierColumns(kept=element("bf16"), threshold=4.0), "int8.tensor"),
        ("int8.b128x128", BLOCKS, "int8.b128x128"),
        ("int8.b32x64", BLOCKS, "int8.b64x128"),
        ("int8.b16x32", OutlierBlocks(share=1.0), "int8.b64x32"),
    ],
)
def test_serves_with_legal_configurations(
    activation: str, outliers: OutlierColumns | OutlierBlocks, weight: str
) -> None:
    for m in (1, 100, 4096):
        problem = gemm(activation, outliers, weight, m)
        assert FAMILY.refusal(problem, H200.limits) is None
        assert FAMILY.path(problem, H200.limits) is NumericPath.NATIVE
        legal = FAMILY.legal_space(problem, H200.limits).accepted
        assert len(legal) >= 20
        if isinstance(outliers, OutlierBlocks):
            assert (legal["outlier_k"] == legal["block_k"]).all()
        else:
            assert set(np.unique(legal["outlier_k"])) == {16, 32, 64}


@pytest.mark.parametrize(
    ("problem", "gpu", "reason"),
    [
        (Quantize(rows=8, cols=8, target=recipe("jetfire").activation), "h200", "serves gemm"),
        (gemm("int8.row", None), "h200", "serves recipes with outliers apart"),
        (gemm("e4m3fn.row", COLUMNS), "h200", "multiplies int8"),
        (gemm("int8.row", COLUMNS, "bf16"), "h200", "multiplies int8"),
        (gemm("int8.row+sr", COLUMNS), "h200", "codes rounded to even"),
        (gemm("int8.b1x128+e8m0fnu", BLOCKS), "h200", "fp32 absmax scales"),
        (gemm("int8", COLUMNS), "h200", "fp32 absmax scales"),
        (gemm("int8.b1x128", COLUMNS), "h200", "one scale a tensor or row"),
        (gemm("int8.row", COLUMNS, "int8.b128x128"), "h200", "one scale a tensor or row"),
        (gemm("int8.row", OutlierColumns(kept=element("fp32"))), "h200", "fp16 or bf16, not fp32"),
        (gemm("int8.row", BLOCKS), "h200", "multiples of 16 rows"),
        (gemm("int8.b1x128", BLOCKS), "h200", "multiples of 16 rows"),
        (gemm("int8.b128x128", BLOCKS, "int8.row"), "h200", "multiples of 32 rows"),
        (gemm("int8.b128x128", BLOCKS, "int8.b16x64"), "h200", "multiples of 32 rows"),
        (gemm("int8.b16x48", BLOCKS, "int8.b32x48"), "h200", "multiples of 32"),
        (gemm("int8.row", COLUMNS, k=200000), "h200", "int32 accumulator"),
        (replace(gemm("int8.row", COLUMNS), out="int8.b32x32"), "h200", "int8.b32x32"),
    ],
)
def test_refuses_what_it_does_not_serve(problem: Gemm, gpu: str, reason: str) -> None:
    assert reason in (FAMILY.refusal(problem, load_gpu(gpu).limits) or "served")


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("llm-int8", {"block_m": 48}, "tile shape"),
        ("llm-int8", {"block_k": 16}, "dot size"),
        ("llm-int8", {"outlier_k": 8}, "outlier depth"),
        ("llm-int8", {"outlier_k": 128}, "outlier depth"),
        ("llm-int8", {"outlier_k": 48}, "outlier depth"),
        (
            "llm-int8",
            {"block_m": 256, "block_k": 32, "num_stages": 5, "num_warps": 8},
            "outlier memory",
        ),
        ("llm-int8", {"block_n": 256, "block_k": 256, "num_stages": 5}, "shared memory"),
        ("int8-fallback", {"outlier_k": 32}, "outlier depth"),
        ("int8-fallback", {"block_k": 256, "outlier_k": 256}, "quant block"),
        ("int8-fallback", {"block_m": 256, "block_n": 64, "num_warps": 8}, "quant rows"),
        ("int8-fallback", {"block_n": 256, "num_warps": 8}, "quant rows"),
    ],
)
def test_rules(name: str, change: dict, rule: str) -> None:
    problem = Gemm(m=4096, n=4096, k=4096, recipe=recipe(name))
    assert isinstance(FAMILY.judge(problem, BASE, H200.limits), Accepted)
    verdict = FAMILY.judge(problem, replace(BASE, **change), H200.limits)
    assert isinstance(verdict, Rejected), verdict
    assert verdict.rule == rule, verdict.reason


def test_tma_needs_a_gpu_that_has_it() -> None:
    problem = Gemm(m=4096, n=4096, k=4096, recipe=recipe("llm-int8"))
    config = replace(BASE, tma=True)
    assert isinstance(FAMILY.judge(problem, config, H200.limits), Accepted)
    verdict = FAMILY.judge(problem, config, load_gpu("a100").limits)
    assert isinstance(verdict, Rejected)
    assert verdict.rule == "tma"


@pytest.mark.parametrize("gpu", gpu_names())
def test_default_is_legal_for_every_shape(gpu: str) -> None:
    limits = load_gpu(gpu).limits
    for name in ("llm-int8", "int8-fallback"):
        for m in (1, 17, 300, 5000):
            for n, k in ((1, 1), (40, 100), (4096, 4096), (513, 7)):
                problem = Gemm(m=m, n=n, k=k, recipe=recipe(name))
                if FAMILY.refusal(problem, limits) is None:
                    config = FAMILY.default(problem, limits)
                    assert isinstance(FAMILY.judge(problem, config, limits), Accepted), problem


def test_default_is_legal_for_small_blocks() -> None:
    for activation in ("int8.b16x32", "int8.b48x64"):
        problem = gemm(activation, BLOCKS, "int8.b32x64")
        config = FAMILY.default(problem, H200.limits)
        assert isinstance(FAMILY.judge(problem, config, H200.limits), Accepted)


def test_expected_outliers_are_those_of_the_sources() -> None:
    # One thousandth of 4096 columns, rounded up; a fifth of 3 x 5 ragged blocks.
    assert [expected_columns(k) for k in (1, 1000, 4096)] == [1, 1, 5]
    assert fallback_capacity(gemm("int8.b128x128", BLOCKS, m=300, n=8, k=520)) == 3
    with pytest.raises(ValueError, match="no block of gemm"):
        fallback_capacity(gemm("int8.row", COLUMNS))
