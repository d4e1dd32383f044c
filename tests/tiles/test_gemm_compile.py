"""The scaled GEMM compiles to the instructions that it was written for, without a GPU."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

from cross_compile import compile_gemm, registers_and_stack
from gemm_cases import BASE, GEMM, gemm
from gpu_limits import A100, H200

from tiles.kernels import ConfigTable
from tiles.kernels.gemm import GemmConfig
from tiles.kernels.gemm_smem import smem_bytes

LARGE = "gemm:4096x4096x4096"
WIDE = replace(BASE, block_n=256, block_k=128, num_stages=3)


@pytest.mark.parametrize(
    ("problem", "config", "instruction"),
    [
        (f"{LARGE}:bf16:bf16", replace(WIDE, block_k=64), "m64n256k16.f32.bf16.bf16"),
        (f"{LARGE}:e4m3-row:bf16", replace(WIDE, persistent=True), "m64n256k32.f32.e4m3.e4m3"),
        (f"{LARGE}:int8-row:bf16", WIDE, "m64n128k32.s32.s8.s8"),
        (f"{LARGE}:deepseek-fp8:bf16", replace(BASE, block_k=128), "m64n128k32.f32.e4m3.e4m3"),
        (f"{LARGE}:jetfire:bf16", replace(BASE, block_k=32), "m64n128k32.s32.s8.s8"),
    ],
    ids=["bf16", "e4m3-row persistent", "int8-row", "deepseek-fp8", "jetfire"],
)
def test_hopper_kernel_uses_wgmma_and_tma_without_spills(
    problem: str, config: GemmConfig, instruction: str
) -> None:
    compiled = compile_gemm(gemm(problem), config, 90)
    assert f"wgmma.mma_async.sync.aligned.{instruction}" in compiled.asm["ptx"]
    assert "cp.async.bulk.tensor" in compiled.asm["ptx"]
    registers, stack = registers_and_stack(compiled)
    assert registers <= 255
    assert stack == 0
    # A layout conversion inside the loop would send the accumulator through shared memory.
    loop = compiled.asm["ttgir"].split("scf.for", 1)[1].split("scf.yield", 1)[0]
    assert config.persistent or "convert_layout" not in loop


def test_pointer_loads_are_asynchronous_copies_of_16_bytes() -> None:
    compiled = compile_gemm(gemm(f"{LARGE}:e4m3-row:bf16"), replace(BASE, tma=False), 90)
    assert "wgmma.mma_async" in compiled.asm["ptx"]
    assert "cp.async.cg.shared.global" in compiled.asm["ptx"]
    assert "cp.async.bulk.tensor" not in compiled.asm["ptx"]


@pytest.mark.parametrize("name", ["e4m3-tensor", "e5m2-b128"])
def test_ampere_decodes_8_bit_floats_to_fp16(name: str) -> None:
    problem = gemm(f"{LARGE}:{name}:bf16")
    config = GEMM.default(problem, A100)
    compiled = compile_gemm(problem, config, 80, decode=True)
    assert "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" in compiled.asm["ptx"]
    assert "cp.async.cg.shared.global" in compiled.asm["ptx"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [
        f"{LARGE}:bf16:bf16",
        f"{LARGE}:e4m3-row:fp32",
        f"{LARGE}:deepseek-fp8:bf16",
        f"{LARGE}:int8-b128:bf16",
        f"{LARGE}:jetfire:bf16",
    ],
)
def test_estimated_shared_memory_covers_what_the_compiler_takes(problem: str) -> None:
    """Legal configurations, and one of each mode: never too low, and hardly too high."""
    target = gemm(problem)
    space = GEMM.legal_space(target, H200).accepted
    modes = GemmConfig.defaults()
    plain = np.flatnonzero(np.logical_and.reduce([space[n] == v for n, v in modes.items()]))
    rng = np.random.default_rng(0)
    rows = rng.choice(plain, 8, replace=False).tolist()
    for name, value in modes.items():
        those = np.flatnonzero(space[name] != value)
        rows += rng.choice(those, min(1, len(those))).tolist()
    sample = [space.config(row) for row in rows]
    estimated = smem_bytes(target, ConfigTable.of(sample))
    for config, estimate in zip(sample, estimated.tolist(), strict=True):
        assert isinstance(config, GemmConfig)
        taken = compile_gemm(target, config, 90).metadata.shared
        assert taken <= estimate, f"{config}: {taken} B taken, {estimate} B estimated"
        # Sums of a share are staged in fp32, or stored from where they are.
        spare = (64 if config.split_k > 1 or config.stream_k else 36) * 2**10
        assert estimate - taken <= spare, f"{config}: {taken} B taken, {estimate} B estimated"
