"""The Hopper GEMM for few rows or tiles compiled without a GPU: instructions, registers, facts."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from config_sample import sample
from hopper_gemm_cases import gemm
from hopper_skinny_cases import FAMILY, RECIPES, config, options
from nvrtc_compile import compile_cuda, stages_given_up_unread

from bench.sass import loops
from sim import load_gpu
from tiles.kernels import ConfigTable, TileConfig
from tiles.kernels.compile_facts import OfflineCompileError
from tiles.kernels.cuda import gemm_hopper_skinny
from tiles.kernels.hopper_skinny import HopperSkinnyConfig, skinny_mode, skinny_smem_bytes
from tiles.problems import Gemm

H200 = load_gpu("h200").limits
SOURCE = Path(gemm_hopper_skinny.__file__).with_suffix(".cu")
#: Registers of a thread that a CTA of so many warpgroups and one more warp can have: a quarter of
#: the file serves each of four schedulers, in units of eight a thread.
REGISTERS = {1: 255, 2: 168, 3: 128, 4: 96}


def check_compiled(problem: Gemm, one: HopperSkinnyConfig) -> str:
    """Compile, and hold registers and shared memory against what was promised; returns the PTX."""
    found = compile_cuda(SOURCE, (*options(problem, one), "--ptxas-options=-v"))
    foreign = [line for line in found.log.splitlines() if not line.startswith("ptxas ")]
    assert not foreign, foreign
    assert "warning" not in found.log
    assert "serialized" not in found.log  # wgmma that waits for each other
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found.log
    assert stages_given_up_unread(found.ptx) == []
    used = re.search(r"Used (\d+) registers", found.log)
    assert used is not None, found.log
    assert int(used[1]) <= REGISTERS[one.block_n // 64]
    # All of it is what the launcher asks for.
    assert not re.search(r"bytes smem", found.log)
    scales = skinny_mode(problem.recipe.activation, problem.recipe.weight)
    assert scales is not None
    if scales == "mx" and one.block_n == 64:  # three CTAs share a multiprocessor, or two
        assert int(used[1]) <= REGISTERS[3 if one.block_m <= 64 else 2]
    asked = gemm_hopper_skinny.smem_bytes(scales=scales, config=one.to_dict())
    assert asked == skinny_smem_bytes(problem, ConfigTable.of([one]))[0]
    return found.ptx


# Every element, output and scale mode, every width of the instruction.
COMPILED = {
    "bf16": ("bf16:bf16", config(), "m64n16k16.f32.bf16.bf16"),
    "one row": ("bf16:fp32", config(block_m=8, cluster=8), "m64n8k16.f32.bf16.bf16"),
    "fp16": (
        "fp16:fp16",
        config(block_m=32, block_n=128, cluster=2, interleaved=True),
        "m64n32k16.f32.f16.f16",
    ),
    "tensor": ("e4m3-tensor:bf16", config(block_m=48, cluster=4), "m64n48k32.f32.e4m3.e4m3"),
    "row": ("e4m3-row:bf16", config(block_m=64, block_n=256), "m64n64k32.f32.e4m3.e4m3"),
    "wide": ("e5m2-row:fp16", config(block_m=176, block_n=192), "m64n176k32.f32.e5m2.e5m2"),
    "widest": ("bf16:bf16", config(block_m=256, block_n=128, stages=3), "m64n256k16.f32.bf16"),
    "1x128": (
        "deepseek-fp8:bf16",
        config(block_m=128, block_n=128, cluster=2),
        "m64n128k32.f32.e4m3.e4m3",
    ),
    "1x128, narrow": ("e5m2-b128:fp32", config(block_m=8, cluster=8), "m64n8k32.f32.e5m2.e5m2"),
    "1x128, 96 rows": ("deepseek-fp8:bf16", config(block_m=96), "m64n96k32.f32.e4m3.e4m3"),
    "int8 row": ("int8-row:bf16", config(block_m=192, block_n=128), "m64n192k32.s32.s8.s8"),
    "128x128": (
        "int8-b128:bf16",
        config(block_m=64, block_n=256, cluster=8),
        "m64n64k32.s32.s8.s8",
    ),
    "MX": ("mxfp8-e4m3:bf16", config(), "m64n16k32.f32.e4m3.e4m3"),
    "MX, split": (
        "mxfp8-e4m3:bf16",
        config(block_n=192, cluster=8, interleaved=True),
        "m64n16k32.f32.e4m3.e4m3",
    ),
    "MX, 64 rows": ("mxfp8-e5m2:bf16", config(block_m=64), "m64n64k32.f32.e5m2.e5m2"),
    "MX, 96 rows": ("mxfp8-e4m3:bf16", config(block_m=96), "m64n48k32.f32.e4m3.e4m3"),
    "MX, 128 rows in parts": (
        "mxfp8-e4m3:fp16",
        config(block_m=128, block_n=192, stages=3),
        "m64n32k32.f32.e4m3.e4m3",
    ),
}


@pytest.mark.parametrize("case", COMPILED)
def test_compiles_to_the_instructions_it_was_written_for(case: str) -> None:
    formats, one, instruction = COMPILED[case]
    ptx = check_compiled(gemm(f"gemm:4096x4096x4096:{formats}"), one)
    assert f"wgmma.mma_async.sync.aligned.{instruction}" in ptx
    assert "cp.async.bulk.tensor.2d.shared::cluster.global" in ptx
    for word in ("ld.shared::cluster.v4", "mapa.shared::cluster", "barrier.cluster.arrive"):
        assert (word in ptx) == (one.cluster > 1)
    stores = "st.global.v4.f32" if formats.endswith("fp32") else "st.global.v2.u32"
    assert stores in ptx
    assert not re.search(r"\b(atom|red)\.", ptx)


@pytest.mark.parametrize("m", [16, 64, 128])
def test_mx_products_are_multiplied_together_and_promoted_in_as_few_instructions(m: int) -> None:
    """The counts that the source tells, and products that do not wait for each other."""
    whole = options(gemm("gemm:4096x4096x4096:mxfp8-e4m3:bf16"), config(block_m=m))
    code = compile_cuda(SOURCE, whole).machine_code()
    counts = (Counter(x.split(".")[0] for x in loop) for loop in loops(code, holding_others=True))
    found = min((count for count in counts if count["QGMMA"]), key=Counter.total)
    parts = -(-m // 64)
    assert found["QGMMA"] == 4 * parts
    assert (found["FMUL"], found["FFMA"]) == (2 * m, 2 * m)
    assert found["LDS"] == m // 4 + 2
    assert found.total() <= 4.25 * m + 20 * parts + 45


def of_recipe(name: str, shape: str) -> Gemm:
    out = ("bf16", "fp16", "fp32")[RECIPES.index(name) % 3]
    return gemm(f"gemm:{shape}:{name}:{out}")


@cache
def sampled() -> dict[str, list[TileConfig]]:
    tables = {}
    for name in RECIPES:
        problems = [of_recipe(name, f"{m}x8192x8192") for m in (16, 256)]
        spaces = [FAMILY.legal_space(problem, H200).accepted for problem in problems]
        tables[name] = ConfigTable.of([one for space in spaces for one in space])
    return sample(tables, apart=["block_n"])


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_any_legal_configuration_compiles_without_spills(name: str) -> None:
    for one in sampled()[name]:
        assert isinstance(one, HopperSkinnyConfig)
        check_compiled(of_recipe(name, "256x8192x8192"), one)


def test_compile_facts_without_a_gpu() -> None:
    problem, one = gemm("gemm:16x4096x4096:deepseek-fp8:bf16"), config(stages=5, cluster=4)
    facts = FAMILY.compile_offline(problem, one, H200)
    assert facts is not None
    assert (facts.target, facts.threads, facts.mma) == ("sm_90a", 160, "wgmma")
    assert (facts.pipeline_depth, facts.stack_bytes) == (5, 0)
    assert facts.smem_bytes == skinny_smem_bytes(problem, ConfigTable.of([one]))[0]
    assert facts.refusal(H200) == ""


def test_the_source_has_no_default_for_a_macro() -> None:
    whole = options(gemm("gemm:256x256x256:bf16:bf16"), config())
    for name, told in (("BLOCK_M", "WGMMA_N"), ("BLOCK_N", "BLOCK_N"), ("STAGES", "STAGES")):
        without = [option for option in whole if not option.startswith(f"-D{name}=")]
        with pytest.raises(OfflineCompileError, match=told):
            compile_cuda(SOURCE, without)
