"""Modes of the scaled GEMM, compiled for sm_90 without a GPU: what the compiler makes of them."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")
pytest.importorskip("torch")

from cross_compile import compile_gemm, registers_and_stack  # noqa: E402 - triton is optional
from gemm_cases import BASE, gemm  # noqa: E402

pytestmark = pytest.mark.slow

LARGE = "gemm:4096x4096x4096"
TILE = replace(BASE, block_m=128, block_n=128, block_k=128, num_stages=3)


def machine_code(compiled: Any, tmp_path: Path) -> str:
    """The instructions of a kernel."""
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    return subprocess.run([tool, "-c", binary], capture_output=True, text=True, check=True).stdout


def promotions_in_flight(code: str) -> int:
    """Multiply-adds between the first product of the loop and the wait for it."""
    opcodes = re.findall(r"/\*[0-9a-f]{4}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", code)
    first = next(i for i, code in enumerate(opcodes) if "GMMA" in code)
    wait = next(i for i in range(first, len(opcodes)) if opcodes[i].startswith("WARPGROUP.DEPBAR"))
    return opcodes[first:wait].count("FFMA")


def test_overlap_promotes_a_product_while_the_next_one_runs(tmp_path: Path) -> None:
    problem = gemm(f"{LARGE}:int8-b128:bf16")
    waits = promotions_in_flight(machine_code(compile_gemm(problem, TILE, 90), tmp_path))
    compiled = compile_gemm(problem, replace(TILE, overlap=True), 90)
    runs = promotions_in_flight(machine_code(compiled, tmp_path))
    # 64 accumulators a thread: hardly one is touched before the wait, and most of them are.
    assert waits < 8
    assert runs >= 32
    registers, stack = registers_and_stack(compiled)
    assert registers <= 255
    assert stack == 0


def test_scales_of_the_next_step_are_loaded_before_the_product_is_waited_for() -> None:
    ir = compile_gemm(gemm(f"{LARGE}:deepseek-fp8:bf16"), TILE, 90).asm["ttgir"]
    loop = ir.split("scf.for", 1)[1].split("scf.yield", 1)[0]
    wait = loop.index("warp_group_dot_wait")
    assert loop.count("tt.load", 0, wait) == loop.count("tt.load") >= 2


@pytest.mark.parametrize(
    ("recipe", "partial", "mode"),
    [
        ("int8-row", "!tt.ptr<i32>", {"split_k": 4}),
        ("deepseek-fp8", "!tt.ptr<f32>", {"persistent": True, "stream_k": True}),
    ],
    ids=["split-K", "stream-K"],
)
def test_shared_tiles_keep_exact_sums_in_the_workspace(
    recipe: str, partial: str, mode: dict[str, int | bool]
) -> None:
    config = replace(TILE, **mode)  # type: ignore[arg-type]
    compiled = compile_gemm(gemm(f"gemm:256x256x8192:{recipe}:bf16"), config, 90)
    assert re.search(rf"%partial: {re.escape(partial)}", compiled.asm["ttir"])
    assert "wgmma.mma_async" in compiled.asm["ptx"]
    # An arrival publishes the sums that were stored before it, and sees those of the others.
    assert re.search(r"atom\.\S*acq_rel", compiled.asm["ptx"])
    assert registers_and_stack(compiled)[1] == 0


def test_four_parts_take_less_shared_memory_than_two() -> None:
    problem = gemm(f"{LARGE}:e4m3-row:fp32")
    config = replace(TILE, block_n=128, persistent=True)
    two, four = (
        compile_gemm(problem, replace(config, subtiles=parts), 90).metadata.shared
        for parts in (0, 4)
    )
    assert four <= two - 128 * 128
