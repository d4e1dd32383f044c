"""The Hopper GEMM for few rows or tiles without a GPU: legality and refusals."""

from functools import cache

import numpy as np
import pytest
from hopper_gemm_cases import gemm
from hopper_skinny_cases import FAMILY, RECIPES, options
from launcher_gate import broken_rows, takes

from sim import gpu_names, load_gpu
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.cuda import gemm_hopper_skinny
from tiles.kernels.hopper_skinny import (
    ACCUMULATORS,
    BLOCK_M,
    CLUSTERS,
    MAX_STAGES,
    MX_BLOCK_M,
    HopperSkinnyConfig,
    skinny_smem_bytes,
    skinny_steps,
)
from tiles.problems import parse_problem

H200 = load_gpu("h200").limits
#: Rules about what the kernel cannot do; the others are about size, and what is not worth trying.
HARD_RULES = {"tile shape", "counts", "promotion", "registers"}


def test_descriptor_and_launcher_name_the_same_choices() -> None:
    assert BLOCK_M == gemm_hopper_skinny.BLOCK_M
    assert ACCUMULATORS == gemm_hopper_skinny.ACCUMULATORS
    assert CLUSTERS == gemm_hopper_skinny.CLUSTERS
    assert MX_BLOCK_M == gemm_hopper_skinny.MX_BLOCK_M
    assert MAX_STAGES == gemm_hopper_skinny.MAX_STAGES


@cache
def wide_table() -> ConfigTable:
    """The space, and beyond it values that the kernel does not have."""
    return ConfigTable.product(
        HopperSkinnyConfig,
        block_m=(4, 8, 16, 24, 64, 96, 128, 160, 176, 192, 256, 512),
        block_n=(32, 64, 96, 128, 192, 256, 320),
        stages=(1, 2, 3, 24, 25),
        cluster=(0, 1, 2, 3, 8, 16),
        interleaved=(False, True),
    )


@pytest.mark.parametrize("name", ["bf16", "e4m3-row", "deepseek-fp8", "int8-b128", "mxfp8-e4m3"])
def test_the_gate_and_the_launcher_agree_on_every_configuration(name: str) -> None:
    problem = gemm(f"gemm:4096x4096x4096:{name}:bf16")
    for table in (FAMILY.space(problem, H200), wide_table()):
        broken = broken_rows(FAMILY, problem, table, H200, HARD_RULES)
        taken = np.array([takes(options, problem, one) for one in table])
        differ = np.flatnonzero(taken == broken)
        assert len(differ) == 0, table.config(int(differ[0]))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shape", ["1x64x32", "1x4096x4096", "16x8192x8192", "100x2112x7168",
                                   "128x7168x2048", "2048x3072x768", "8192x8192x8192"])  # fmt: skip
def test_every_legal_space_holds_the_default_and_fits(name: str, shape: str) -> None:
    problem = gemm(f"gemm:{shape}:{name}:bf16")
    legal = FAMILY.legal_space(problem, H200).accepted
    assert len(legal) >= (1 if shape == "1x64x32" else 5)
    assert (skinny_smem_bytes(problem, legal) <= H200.smem_bytes_per_cta).all()
    assert (legal["cluster"] <= skinny_steps(problem)).all()
    default = FAMILY.default(problem, H200)
    assert FAMILY.judge(problem, default, H200).config == default
    assert takes(options, problem, default)
    rejected = FAMILY.legal_space(problem, H200).rejected_by_rule
    assert sum(rejected.values()) + len(legal) == len(FAMILY.space(problem, H200))


def test_a_legal_tile_is_no_wider_than_the_rows_need() -> None:
    for m, widest in ((1, 8), (8, 8), (9, 16), (40, 48), (65, 96), (130, 176), (300, 256)):
        legal = FAMILY.legal_space(gemm(f"gemm:{m}x4096x4096:bf16:bf16"), H200).accepted
        assert legal["block_m"].max() == widest


def test_a_split_of_k_needs_a_step_for_every_cta() -> None:
    problem = gemm("gemm:16x4096x384:bf16:bf16")  # 6 steps
    legal = FAMILY.legal_space(problem, H200).accepted
    assert set(legal["cluster"]) == {1, 2, 4}
    rejected = [r for r in FAMILY.legal_space(problem, H200).rejected if r.rule == "split"]
    assert any("8 CTAs share 6 steps" in r.reason for r in rejected)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ("gemm:64x64x64:jetfire:bf16", "no scale mode for int8.b32x32"),
        ("gemm:64x64x72:mxfp8-e4m3:bf16", "K: rows of 72 bytes"),
        ("gemm:64x64x64:mxint8:bf16", "multiplies two of one element of e4m3fn, e5m2, int8"),
        ("gemm:64x64x64:mxfp8-e4m3:e4m3fn.b32x32", "e4m3fn.b32x32"),
        ("gemm:64x64x80:mxfp8-e4m3:bf16", None),
        ("gemm:64x64x66:bf16:bf16", "K: rows of 132 bytes"),
        ("gemm:64x66x64:bf16:bf16", "N: rows of 132 bytes"),
        ("gemm:64x68x64:bf16:fp32", None),
        ("gemm:64x64x133152:int8-row:bf16", "K 133152 > 133144: the int32 accumulator"),
        ("quantize:64x64:int8.row:bf16", "hopper_skinny_gemm serves gemm problems"),
    ],
)
def test_refusals(problem: str, reason: str | None) -> None:
    found = FAMILY.refusal(parse_problem(problem), H200)
    assert found is None if reason is None else reason in (found or "")


@pytest.mark.parametrize("name", gpu_names())
def test_only_capability_9_0_is_served(name: str) -> None:
    limits = load_gpu(name).limits
    found = FAMILY.refusal(gemm("gemm:16x4096x4096:bf16:bf16"), limits)
    assert (found is None) == (limits.capability == 90), found
    if found is None:
        assert FAMILY.path(gemm("gemm:16x64x64:bf16:bf16"), limits) is NumericPath.NATIVE
