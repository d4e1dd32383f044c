"""What NVRTC makes of the Hopper GEMM."""

import re
from functools import cache

import pytest
from config_sample import sample
from hopper_gemm_cases import (
    FAMILY,
    H200,
    RECIPES,
    SOURCE,
    THREADS,
    config,
    gemm,
    of_recipe,
    options,
)
from nvrtc_compile import compile_cuda, stages_given_up_unread

from tiles.kernels import ConfigTable, TileConfig
from tiles.kernels.compile_facts import OfflineCompileError
from tiles.kernels.cuda import gemm_hopper
from tiles.kernels.hopper_gemm import HopperGemmConfig, hopper_smem_bytes, scale_mode
from tiles.problems import Gemm

# Every element, output and scale mode, every tile, both schedules, clusters and buffers.
COMPILED = {
    "bf16": ("bf16:bf16", config(block_n=256, cluster=2), "m64n256k16.f32.bf16.bf16"),
    "bf16, 176 columns": ("bf16:bf16", config(block_n=176), "m64n176k16.f32.bf16.bf16"),
    "row, 208 columns in turns": (
        "e4m3-row:bf16",
        config(block_n=208, pingpong=True, block_m=64),
        "m64n208k32.f32.e4m3.e4m3",
    ),
    "int8, 240 columns": ("int8-row:bf16", config(block_n=240), "m64n240k32.s32.s8.s8"),
    "bf16 to fp32": ("bf16:fp32", config(block_n=192), "m64n192k16.f32.bf16.bf16"),
    "fp16 in turns": (
        "fp16:fp16",
        config(block_n=256, pingpong=True, block_m=64, stages=3, store_buffers=2),
        "m64n256k16.f32.f16.f16",
    ),
    "tensor": ("e4m3-tensor:bf16", config(block_m=256, stages=3), "m64n128k32.f32.e4m3.e4m3"),
    "tensor in turns": ("e5m2-tensor:fp16", config(pingpong=True), "m64n128k32.f32.e5m2.e5m2"),
    "row": ("e4m3-row:bf16", config(block_n=256, stages=3), "m64n256k32.f32.e4m3.e4m3"),
    "row in turns": (
        "e5m2-row:bf16",
        config(pingpong=True, cluster=2, stages=5, store_buffers=2),
        "m64n128k32.f32.e5m2.e5m2",
    ),
    "1x128": ("deepseek-fp8:bf16", config(stages=6, cluster=2), "m64n128k32.f32.e4m3.e4m3"),
    "1x128, narrow": ("e5m2-b128:fp32", config(block_n=64, stages=8), "m64n64k32.f32.e5m2.e5m2"),
    "int8 row": ("int8-row:bf16", config(block_n=256, cluster=2), "m64n256k32.s32.s8.s8"),
    "int8 in turns": (
        "int8-tensor:fp32",
        config(block_n=192, block_m=64, pingpong=True),
        "m64n192k32.s32.s8.s8",
    ),
    "1x128, chained": (
        "deepseek-fp8:bf16",
        config(block_n=192, stages=5, cluster=2, chained=True),
        "m64n192k32.f32.e4m3.e4m3",
    ),
    "128x128": ("int8-b128:bf16", config(stages=6, store_buffers=2), "m64n128k32.s32.s8.s8"),
}


def check_compiled(problem: Gemm, one: HopperGemmConfig) -> str:
    """Compile, and hold registers and shared memory against what was promised; returns the PTX."""
    found = compile_cuda(SOURCE, (*options(problem, one), "--ptxas-options=-v"))
    foreign = [line for line in found.log.splitlines() if not line.startswith("ptxas ")]
    assert not foreign, foreign
    assert "warning" not in found.log
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found.log
    assert stages_given_up_unread(found.ptx) == []
    used = re.search(r"Used (\d+) registers.* (\d+) bytes smem", found.log)
    assert used is not None, found.log
    # What the launch asks for; consumers and producer then share it out by setmaxnreg.
    assert int(used[1]) * THREADS <= H200.registers_per_sm
    scales = scale_mode(problem.recipe.activation, problem.recipe.weight)
    assert scales is not None
    dynamic = gemm_hopper.smem_bytes(scales=scales, config=one.to_dict())
    expected = hopper_smem_bytes(problem, ConfigTable.of([one]))[0]
    assert expected == dynamic + int(used[2])
    # A compiler that cannot follow the accumulators waits for every product at once.
    waits = found.ptx.count("wgmma.wait_group")
    assert found.machine_code().count("WARPGROUP.DEPBAR") == waits
    return found.ptx


#: One of each kind of accumulator and of promotion in the default suite, the rest among the slow.
QUICK = ("bf16", "1x128", "int8 row")


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in COMPILED],
)
def test_compiles_to_the_instructions_it_was_written_for(case: str) -> None:
    formats, one, instruction = COMPILED[case]
    ptx = check_compiled(gemm(f"gemm:4096x4096x4096:{formats}"), one)
    assert f"wgmma.mma_async.sync.aligned.{instruction}" in ptx
    assert "setmaxnreg.inc.sync.aligned.u32 232" in ptx
    assert "setmaxnreg.dec.sync.aligned.u32 40" in ptx
    assert "cp.async.bulk.tensor.2d.shared::cluster.global" in ptx
    assert "cp.async.bulk.tensor.2d.global.shared::cta" in ptx
    assert (".multicast::cluster" in ptx) == (one.cluster > 1)
    assert ("stmatrix" in ptx) == (not formats.endswith("fp32"))


@cache
def sampled() -> dict[str, list[TileConfig]]:
    tables = {name: FAMILY.legal_space(of_recipe(name), H200).accepted for name in RECIPES}
    return sample(tables, apart=["pingpong", "chained"], free=["group_m"])


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_any_legal_configuration_compiles_without_spills(name: str) -> None:
    for one in sampled()[name]:
        assert isinstance(one, HopperGemmConfig)
        check_compiled(of_recipe(name), one)


def test_compile_facts_without_a_gpu() -> None:
    problem, one = gemm("gemm:4096x4096x4096:deepseek-fp8:bf16"), config(stages=6, cluster=2)
    facts = FAMILY.compile_offline(problem, one, H200)
    assert facts is not None
    assert (facts.target, facts.threads, facts.mma) == ("sm_90a", THREADS, "wgmma")
    assert (facts.pipeline_depth, facts.stack_bytes) == (6, 0)
    assert facts.smem_bytes == hopper_smem_bytes(problem, ConfigTable.of([one]))[0]
    assert facts.refusal(H200) == ""


def test_the_source_has_no_default_for_a_macro() -> None:
    whole = options(gemm("gemm:256x256x256:bf16:bf16"), config())
    without = [option for option in whole if not option.startswith("-DBLOCK_N=")]
    with pytest.raises(OfflineCompileError, match="BLOCK_N"):
        compile_cuda(SOURCE, without)
