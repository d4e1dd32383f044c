"""Which problems and configurations the Hopper GEMM serves."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hopper_gemm_cases import FAMILY, H200, RECIPES, config, gemm, options
from launcher_gate import broken_rows, takes

from sim import gpu_names, load_gpu
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.cuda import gemm_hopper
from tiles.kernels.hopper_gemm import HopperGemmConfig, hopper_smem_bytes
from tiles.problems import Gemm, parse_problem
from tiles.recipes import recipe

#: Rules about what the kernel cannot do; the others are about size, and what is not worth trying.
HARD_RULES = {"tile shape", "counts", "promotion", "registers", "chain"}


@cache
def wide_table() -> ConfigTable:
    """The space, and beyond it values that the kernel does not have."""
    return ConfigTable.product(
        HopperGemmConfig,
        block_m=(32, 64, 96, 128, 256, 512),
        block_n=(16, 64, 128, 176, 192, 256, 320),
        stages=(1, 2, 9),
        cluster=(1, 2, 3),
        group_m=(0, 7),
        pingpong=(False, True),
        store_buffers=(0, 1, 3),
        chained=(False, True),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_the_gate_and_the_launcher_agree_on_every_configuration(name: str) -> None:
    problem = gemm(f"gemm:4096x4096x4096:{name}:bf16")
    for table in (FAMILY.space(problem, H200), wide_table()):
        broken = broken_rows(FAMILY, problem, table, H200, HARD_RULES)
        taken = np.array([takes(options, problem, one) for one in table])
        differ = np.flatnonzero(taken == broken)
        assert len(differ) == 0, table.config(int(differ[0]))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("m", [1, 16, 100, 4096])
def test_every_legal_space_holds_the_default_and_fits(name: str, m: int) -> None:
    problem = gemm(f"gemm:{m}x4096x4096:{name}:bf16")
    legal = FAMILY.legal_space(problem, H200).accepted
    assert len(legal) > 10
    assert (hopper_smem_bytes(problem, legal) <= H200.smem_bytes_per_cta).all()
    default = FAMILY.default(problem, H200)
    assert FAMILY.judge(problem, default, H200).config == default
    assert takes(options, problem, default)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ("gemm:64x64x64:jetfire:bf16", "no scale mode for int8.b32x32"),
        ("gemm:64x64x64:llm-int8:bf16", "no second product for outliers"),
        ("gemm:64x64x64:nvfp4:bf16", "multiplies two of one element of bf16, fp16"),
        ("gemm:64x64x66:bf16:bf16", "K: rows of 132 bytes"),
        ("gemm:64x66x64:bf16:bf16", "N: rows of 132 bytes"),
        ("gemm:64x68x64:bf16:fp32", None),
        ("gemm:64x64x72:e4m3-row:bf16", "K: rows of 72 bytes"),
        ("gemm:64x64x133152:int8-row:bf16", "K 133152 > 133144: the int32 accumulator"),
        ("gemm:64x64x133152:int8-b128:bf16", None),
        ("quantize:64x64:int8.row:bf16", "serves gemm problems"),
    ],
)
def test_refusals(problem: str, reason: str | None) -> None:
    found = FAMILY.refusal(parse_problem(problem), H200)
    assert found is None if reason is None else reason in (found or "")


def test_sixteen_bits_have_no_scales_along_k() -> None:
    block = recipe("deepseek-fp8")
    plain = recipe("bf16").activation.element
    wide = replace(
        block,
        activation=replace(block.activation, element=plain),
        weight=replace(block.weight, element=plain),
    )
    problem = Gemm(m=128, n=128, k=256, recipe=wide)
    assert "has no scale mode" in (FAMILY.refusal(problem, H200) or "")
    with pytest.raises(ValueError, match="scales along K take 8-bit elements, not bf16"):
        gemm_hopper.options(element="bf16", out="bf16", scales="b1x128", config=config().to_dict())


@pytest.mark.parametrize("name", gpu_names())
def test_only_capability_9_0_is_served(name: str) -> None:
    limits = load_gpu(name).limits
    found = FAMILY.refusal(gemm("gemm:4096x4096x4096:bf16:bf16"), limits)
    assert (found is None) == (limits.capability == 90), found
    if found is not None:
        assert f"{name} has another" in found
    else:
        assert FAMILY.path(gemm("gemm:64x64x64:bf16:bf16"), limits) is NumericPath.NATIVE
