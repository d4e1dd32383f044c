"""Spaces, legality rules, defaults and refusals of the batched and grouped families."""

from dataclasses import replace

import numpy as np
import pytest

from sim import gpu_names, load_gpu
from tiles.kernels import Accepted, ConfigTable, Rejected, kernel
from tiles.kernels.batched_gemm import BatchedGemmConfig, TritonBatchedGemm
from tiles.kernels.grouped_gemm import GroupedGemmConfig, TritonGroupedGemm, expert_gemm
from tiles.kernels.hopper_gemm import HopperGemmConfig, hopper_smem_bytes
from tiles.kernels.hopper_grouped_gemm import HopperGroupedGemm
from tiles.problems import GroupedGemm, parse_problem

H200 = load_gpu("h200").limits
GROUPED = TritonGroupedGemm()
BATCHED = TritonBatchedGemm()
HOPPER = HopperGroupedGemm()
DEEPSEEK = "grouped_gemm:256x32768x4096x7168:deepseek-fp8:contiguous:bf16"
PROBLEMS = {
    "triton_grouped_gemm": (
        DEEPSEEK,
        "grouped_gemm:256x8192x7168x2048:int8-b1x128:gathered.8:bf16",
        "grouped_gemm:8x64x4096x7168:bf16:masked.64:bf16",
        "grouped_gemm:8x65536x4096x7168:e4m3-row:padded.128:fp32",
        "grouped_gemm:3x7x5x9:e4m3-tensor:contiguous:fp16",
    ),
    "hopper_grouped_gemm": (
        DEEPSEEK,
        "grouped_gemm:256x8192x7168x2048:int8-b1x128:padded.128:bf16",
        "grouped_gemm:1024x1024x4096x7168:bf16:masked.64:bf16",
        "grouped_gemm:8x65536x4096x7168:e4m3-row:contiguous:fp32",
    ),
    "triton_batched_gemm": (
        "batched_gemm:128x4096x4096x128:e4m3-tensor:nk:bf16",
        "batched_gemm:128x4096x128x4096:e4m3-tensor:kn:bf16",
        "batched_gemm:1x1x4096x64:bf16:nk:fp32",
        "batched_gemm:5x33x65x77:int8-b128:kn:fp32",
    ),
}
CASES = [(name, text) for name, texts in PROBLEMS.items() for text in texts]


def grouped(text: str) -> GroupedGemm:
    problem = parse_problem(text)
    assert isinstance(problem, GroupedGemm)
    return problem


@pytest.mark.parametrize("gpu", gpu_names())
@pytest.mark.parametrize(("name", "text"), CASES)
def test_the_default_is_legal_wherever_the_family_serves(name: str, text: str, gpu: str) -> None:
    family, problem, limits = kernel(name), parse_problem(text), load_gpu(gpu).limits
    if family.refusal(problem, limits) is not None:
        assert gpu != "h200"
        return
    default = family.default(problem, limits)
    judged = family.judge(problem, default, limits)
    assert isinstance(judged, Accepted), judged


@pytest.mark.parametrize(("name", "text"), CASES)
def test_the_space_has_legal_and_distinct_rows(name: str, text: str) -> None:
    family, problem = kernel(name), parse_problem(text)
    space = family.legal_space(problem, H200)
    assert len(space.accepted) >= 10
    rows = np.stack([column.astype(np.int64) for column in space.table.columns.values()], axis=1)
    assert len(np.unique(rows, axis=0)) == len(space.table)
    for one in list(space.rejected)[:: max(1, len(space.table) // 50)]:
        assert isinstance(one, Rejected)
        assert one.reason
        assert isinstance(family.judge(problem, one.config, H200), Rejected)


GROUPED_BASE = GroupedGemmConfig(
    block_m=64,
    block_n=128,
    block_k=128,
    group_m=1,
    num_warps=4,
    num_stages=3,
    ctas_per_sm=2,
    tma=True,
)
BATCHED_BASE = BatchedGemmConfig(
    block_m=128, block_n=128, block_k=128, group_m=1, num_warps=8, num_stages=2, tma=True
)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, None),
        ({"ctas_per_sm": 0}, "co-residence"),
        ({"ctas_per_sm": 4}, "co-residence"),
        ({"num_stages": 6, "ctas_per_sm": 2}, "co-residence"),
        ({"num_stages": 6, "ctas_per_sm": 1}, None),
        ({"block_n": 256, "ctas_per_sm": 1, "num_warps": 8}, "b scale"),
        ({"block_k": 256, "num_stages": 2, "ctas_per_sm": 1}, "quant block"),
        ({"block_m": 512, "num_warps": 8, "ctas_per_sm": 1}, "tma box"),
        ({"block_m": 16, "group_m": 1, "num_warps": 4, "num_stages": 40}, "shared memory"),
        ({"num_warps": 3}, "tile shape"),
    ],
)
def test_rules_of_grouped_tiles(changes: dict[str, int], rule: str | None) -> None:
    config = replace(GROUPED_BASE, **changes)
    judged = GROUPED.judge(parse_problem(DEEPSEEK), config, H200)
    assert getattr(judged, "rule", None) == rule, judged


def test_tiles_follow_the_rows_of_an_expert() -> None:
    few = parse_problem("grouped_gemm:256x1024x4096x7168:bf16:contiguous:bf16")
    high = replace(GROUPED_BASE, block_m=128, block_k=64, ctas_per_sm=1)
    judged = GROUPED.judge(few, high, H200)
    assert getattr(judged, "rule", None) == "oversized tile"
    assert "product of 4x4096x7168" in getattr(judged, "reason", "")


@pytest.mark.parametrize(
    ("text", "changes", "rule"),
    [
        ("batched_gemm:128x4096x4096x128:e4m3-row:nk:bf16", {}, None),
        ("batched_gemm:128x4096x4096x144:e4m3-row:nk:bf16", {}, None),
        ("batched_gemm:128x4096x4096x136:e4m3-row:nk:bf16", {}, "tma alignment"),
        ("batched_gemm:128x4096x4096x136:e4m3-row:nk:bf16", {"tma": False}, None),
        ("batched_gemm:128x4096x128x4096:e4m3-row:kn:bf16", {}, None),
        ("batched_gemm:128x4096x128x4112:e4m3-row:kn:bf16", {}, "second operand"),
        ("batched_gemm:128x4096x120x4096:e4m3-row:kn:bf16", {}, "second operand"),
        ("batched_gemm:128x4096x128x4112:e4m3-row:kn:bf16", {"tma": False}, None),
        ("batched_gemm:128x4096x4096x512:deepseek-fp8:nk:bf16", {"block_n": 256}, "b scale"),
    ],
)
def test_rules_of_batched_tiles(text: str, changes: dict[str, int], rule: str | None) -> None:
    judged = BATCHED.judge(parse_problem(text), replace(BATCHED_BASE, **changes), H200)
    assert getattr(judged, "rule", None) == rule, judged


def test_the_groups_table_takes_shared_memory() -> None:
    problem = grouped(DEEPSEEK)
    config = HopperGemmConfig(
        block_m=128,
        block_n=128,
        stages=6,
        cluster=1,
        group_m=1,
        pingpong=False,
        store_buffers=1,
    )
    table = ConfigTable.of([config])
    single = expert_gemm(problem)
    plain = int(hopper_smem_bytes(single, table)[0])
    with_table = int(hopper_smem_bytes(single, table, groups=problem.experts)[0])
    # 256 entries of 12 bytes; six stages of scales for 132 rows, padded, instead of 128.
    assert with_table == plain + 3072 + 1024
    limits = replace(H200, smem_bytes_per_cta=with_table - 1)
    judged = HOPPER.judge(problem, config, limits)
    assert getattr(judged, "rule", None) == "shared memory"
    assert HOPPER.default(problem, limits).stages < 6


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("triton_grouped_gemm", "gemm:64x64x64:bf16:bf16", "serves grouped_gemm problems"),
        ("triton_batched_gemm", "gemm:64x64x64:bf16:bf16", "serves batched_gemm problems"),
        ("hopper_grouped_gemm", "gemm:64x64x64:bf16:bf16", "serves grouped_gemm problems"),
        (
            "triton_grouped_gemm",
            "grouped_gemm:8x64x128x256:int8-b128:contiguous:bf16",
            "blocks of rows would straddle experts",
        ),
        (
            "triton_grouped_gemm",
            "grouped_gemm:8192x8192x128x256:bf16:contiguous:bf16",
            "8192 experts > 4096",
        ),
        (
            "triton_grouped_gemm",
            "grouped_gemm:8x64x128x256:nvfp4:contiguous:bf16",
            "multiplies bf16",
        ),
        (
            "triton_batched_gemm",
            "batched_gemm:8x64x128x133152:int8-row:nk:bf16",
            "accumulator could overflow",
        ),
        (
            "triton_batched_gemm",
            "batched_gemm:16777216x1x4096x1:bf16:nk:bf16",
            "a grid has 2147483647",
        ),
        (
            "triton_batched_gemm",
            "batched_gemm:4x64x128x133145:int8-row:kn:bf16",
            "K 133145 > 133144: the int32 accumulator could overflow",
        ),
        (
            "triton_grouped_gemm",
            "grouped_gemm:4x64x128x133145:int8-row:contiguous:bf16",
            "K 133145 > 133144: the int32 accumulator could overflow",
        ),
        (
            "hopper_grouped_gemm",
            "grouped_gemm:8x64x128x256:deepseek-fp8:gathered.8:bf16",
            "tiles of neighbouring rows, not gathered",
        ),
        (
            "hopper_grouped_gemm",
            "grouped_gemm:8x64x128x256:e4m3-tensor:contiguous:bf16",
            "has scales none, row, b1x128, not tensor",
        ),
        (
            "hopper_grouped_gemm",
            "grouped_gemm:2048x4096x128x256:bf16:contiguous:bf16",
            "2048 experts > 1024",
        ),
        (
            "hopper_grouped_gemm",
            "grouped_gemm:8x64x128x12:bf16:contiguous:bf16",
            "rows of 24 bytes",
        ),
    ],
)
def test_refusals(name: str, text: str, reason: str) -> None:
    assert reason in (kernel(name).refusal(parse_problem(text), H200) or "")


def test_only_capability_9_0_takes_the_hopper_kernel() -> None:
    served = [
        name
        for name in gpu_names()
        if HOPPER.refusal(parse_problem(DEEPSEEK), load_gpu(name).limits) is None
    ]
    assert served == [n for n in gpu_names() if load_gpu(n).limits.capability == 90]
