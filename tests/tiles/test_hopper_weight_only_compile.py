"""Hopper's weight-only product compiled without a GPU: instructions, spills, facts."""

import re
from pathlib import Path

import pytest
from hopper_weight_cases import formats, gemm
from hopper_weight_only_cases import config, options
from nvrtc_compile import compile_cuda, stages_given_up_unread
from wgmma_operands import overwritten_operands

from sim import load_gpu
from tiles.kernels import ConfigTable
from tiles.kernels import hopper_weight_only_rules as rules
from tiles.kernels.cuda import gemm_hopper_weight_only as launcher
from tiles.kernels.hopper_weight_only import HopperWeightOnly

FAMILY = HopperWeightOnly()
H200 = load_gpu("h200").limits
SOURCE = Path(launcher.__file__).with_suffix(".cu")
COMPILED = {
    "decode": (gemm("1x28672x4096", "int4.g128"), config(block_n=224, warps_k=1, stages=12)),
    "32 rows": (
        gemm("32x4096x4096", "int4.g128", out="fp32"),
        config(block_m=32, warp_rows=32, stages=8, per_sm=1),
    ),
    "64 rows, fp16, zero points": (
        gemm("64x4096x4096", "uint4.g128", "fp16", "fp16"),
        config(block_m=64, warps_k=2, stages=8),
    ),
    "nvfp4": (gemm("8x4096x4096", "nvfp4"), config(warp_rows=32, per_sm=2, stages=8)),
    "int8": (gemm("8x4096x4096", "int8.row"), config()),
    "warpgroups, 32 rows": (
        gemm("32x8192x8192", "int4.g128"),
        config(block_m=32, block_n=128, warps_k=2, stages=8, cluster=2, wgmma=True),
    ),
    "warpgroups, 64 rows, zero points": (
        gemm("64x4096x4096", "uint4.g128", "fp16", "fp32"),
        config(block_m=64, block_n=112, warps_k=1, stages=4, wgmma=True),
    ),
    "warpgroups, int8": (
        gemm("8x4096x4096", "int8.row"),
        config(block_n=128, warps_k=2, wgmma=True),
    ),
    "K over four CTAs": (
        gemm("8x4096x14336", "int4.g128"),
        config(block_n=128, warp_rows=32, stages=16, cluster=4),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED)
def test_compiles_without_spills(case: str) -> None:
    problem, one = COMPILED[case]
    assert FAMILY.refusal(problem, H200) is None
    found = compile_cuda(SOURCE, (*options(problem, one), "--ptxas-options=-v"))
    assert "warning" not in found.log
    assert "Performance Loss" not in found.log
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found.log
    assert stages_given_up_unread(found.ptx) == []
    kind = "f16.f16" if problem.recipe.activation.element.name == "fp16" else "bf16.bf16"
    wanted = ["cp.async.bulk.shared::cluster.global", "cp.async.bulk.tensor.2d"]
    if one.wgmma:
        wanted.append(f"wgmma.mma_async.sync.aligned.m64n{one.block_m}k16.f32.{kind}")
        overwritten, products = overwritten_operands(found.machine_code())
        assert (overwritten, products > 0) == ([], True)
    else:
        wanted += ["ldmatrix", f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.f32"]
    for word in wanted:
        assert word in found.ptx
    assert not re.search(r"bytes smem", found.log)  # all of it is what the launcher asks for
    asked = launcher.smem_bytes(config=one.to_dict(), **formats(problem))
    assert asked == rules.weight_smem_bytes(problem, ConfigTable.of([one]))[0]
    # A loop over lanes at every copy is what the compiler makes of a lane that was not elected.
    assert "BRA.U.ANY" not in found.machine_code()
    if case == "decode":  # what its speed rests on: 11 instructions for eight codes
        code = found.machine_code()
        words = len(re.findall(r"\bHMMA\.16816\.F32\.BF16", code))  # one a lane and product
        assert words == 8  # of 128 columns
        assert len(re.findall(r"\bHFMA2\.BF16", code)) == 4 * words
        assert len(re.findall(r"\bPRMT\b", code)) <= 4 * words + 12


def test_compile_facts_without_a_gpu() -> None:
    problem, one = gemm("8x4096x4096", "int4.g128"), config(stages=8)
    facts = FAMILY.compile_offline(problem, one, H200)
    assert facts is not None
    assert (facts.target, facts.threads, facts.mma) == ("sm_90a", 544, "mma")
    assert (facts.pipeline_depth, facts.stack_bytes) == (8, 0)
    assert facts.smem_bytes == rules.weight_smem_bytes(problem, ConfigTable.of([one]))[0]
    assert facts.refusal(H200) == ""
