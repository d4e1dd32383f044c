"""The Hopper GEMM with scales in blocks: what NVRTC makes of it, instruction by instruction."""

import re
from collections import Counter
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from config_sample import sample
from nvrtc_compile import Compiled, compile_cuda, stages_given_up_unread

from bench.sass import loops
from sim import load_gpu
from sim.hopper_block_model import promotion_slots
from tiles.kernels import ConfigTable, TileConfig
from tiles.kernels.compile_facts import OfflineCompileError
from tiles.kernels.cuda import gemm_hopper_blocks
from tiles.kernels.cuda.modules import CUPY_OPTIONS
from tiles.kernels.hopper_block_gemm import HopperBlockGemm, HopperBlockGemmConfig
from tiles.kernels.hopper_block_rules import block_scales, block_smem_bytes, consumer_tile
from tiles.problems import Gemm, parse_problem

SOURCE = Path(gemm_hopper_blocks.__file__).with_suffix(".cu")
FAMILY = HopperBlockGemm()
H200 = load_gpu("h200").limits


def gemm(text: str) -> Gemm:
    problem = parse_problem(f"gemm:4096x4096x4096:{text}")
    assert isinstance(problem, Gemm)
    return problem


def config(**fields: int) -> HopperBlockGemmConfig:
    plain = {"block_m": 128, "block_n": 128, "stages": 5, "cluster": 1, "group_m": 8}
    plain |= {"store_buffers": 1, "consumers": 2, "sets": 2, "parts": 1, "spread": False, "run": 1}
    return HopperBlockGemmConfig.from_dict(plain | fields)


def compiled(problem: Gemm, one: HopperBlockGemmConfig) -> Compiled:
    """Compile, and hold resources and the compiler's remarks to what was promised."""
    scales = block_scales(problem.recipe.activation, problem.recipe.weight)
    assert scales is not None
    options = gemm_hopper_blocks.options(
        element=problem.recipe.activation.element.name,
        out=problem.out,
        scales=scales,
        config=one.to_dict(),
    )
    found = compile_cuda(SOURCE, (*options, *CUPY_OPTIONS, "--ptxas-options=-v"))
    # Among others: that products wait for each other because it does not see through the sets.
    assert "wgmma" not in found.log, found.log
    foreign = [line for line in found.log.splitlines() if not line.startswith("ptxas ")]
    assert not foreign, foreign
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in found.log
    assert stages_given_up_unread(found.ptx) == []
    if problem.output.scaling is None:  # scales and sums keep subnormals, whatever is asked for
        assert "-ftz=true" in CUPY_OPTIONS
        assert re.findall(r"\b(?:add|sub|mul|fma)\.\S*ftz\S*", found.ptx) == []
    used = re.search(r"Used (\d+) registers.* (\d+) bytes smem", found.log)
    assert used is not None, found.log
    assert int(used[1]) * threads(one) <= H200.registers_per_sm
    # What the warpgroups ask for is there: all of what the launch took, and no more.
    asked = re.findall(r"setmaxnreg\.(?:inc|dec)\.sync\.aligned\.u32 (\d+)", found.ptx)
    producer, consumer = sorted(map(int, asked))
    assert producer + one.consumers * consumer == (one.consumers + 1) * int(used[1])
    dynamic = gemm_hopper_blocks.smem_bytes(scales=scales, config=one.to_dict())
    assert block_smem_bytes(problem, ConfigTable.of([one]))[0] == dynamic + int(used[2])
    return found


def threads(one: HopperBlockGemmConfig) -> int:
    return 128 * (one.consumers + 1)


def _products(body: list[str]) -> int:
    return sum("GMMA" in opcode for opcode in body)


#: Formats, configuration, instruction, and of a unit of K an accumulator: conversions, multiplies,
#: multiply-adds.
COMPILED = {
    "jetfire, codes": (
        "jetfire:int8.b32x32", config(cluster=2, stages=6), "m64n128k32.s32.s8.s8", (4, 1, 0, 1),
    ),
    "jetfire, stochastic": (
        "jetfire:int8.b32x32+sr", config(), "m64n128k32.s32.s8.s8", (4, 1, 0, 1),
    ),
    "jetfire, runs": (
        "jetfire:int8.b32x32+sr",
        config(cluster=2, stages=6, parts=2, spread=True, run=8),
        "m64n64k32.s32.s8.s8",
        (4, 0, 0, 1),
    ),
    "jetfire, runs of four": (
        "jetfire:bf16", config(consumers=4, run=4), "m64n64k32.s32.s8.s8", (4, 0, 0, 1),
    ),
    "64, runs": (
        "jetfire-64:int8.b64x64",
        config(parts=2, sets=1, run=4, consumers=4),
        "m64n32k32.s32.s8.s8",
        (2, 0, 0, 1),
    ),
    "jetfire, one set": (
        "jetfire:bf16", config(sets=1, store_buffers=2), "m64n128k32.s32.s8.s8", (4, 1, 0, 1),
    ),
    "64": ("jetfire-64:int8.b64x64", config(block_n=64), "m64n64k32.s32.s8.s8", (2, 1, 0, 1)),
    "mx": ("mxfp8-e4m3:bf16", config(cluster=2), "m64n128k32.f32.e4m3.e4m3", (4, 0, 1, 1)),
    "mx, tall": (
        "mxfp8-e5m2:fp16",
        config(block_m=256, block_n=64, stages=4),
        "m64n64k32.f32.e5m2.e5m2",
        (4, 0, 1, 1),
    ),
    "jetfire, parts": (
        "jetfire:int8.b32x32", config(parts=2), "m64n64k32.s32.s8.s8", (4, 1, 0, 1),
    ),
    "jetfire, parts of one set": (
        "jetfire:bf16", config(parts=2, sets=1), "m64n64k32.s32.s8.s8", (4, 1, 0, 1),
    ),
    "jetfire, parts, spread": (
        "jetfire:int8.b32x32", config(parts=2, spread=True), "m64n64k32.s32.s8.s8", (4, 1, 0, 1),
    ),
    "jetfire, four, spread": (
        "jetfire:int8.b32x32",
        config(consumers=4, parts=2, spread=True),
        "m64n32k32.s32.s8.s8",
        (4, 1, 0, 1),
    ),
    "mx, parts, spread": (
        "mxfp8-e4m3:bf16", config(parts=2, spread=True), "m64n64k32.f32.e4m3.e4m3", (4, 0, 1, 1),
    ),
    "mx, tall, spread": (
        "mxfp8-e4m3:bf16",
        config(block_m=256, block_n=64, stages=4, parts=2, spread=True),
        "m64n64k32.f32.e4m3.e4m3",
        (4, 0, 1, 1),
    ),
    "jetfire, four": (
        "jetfire:int8.b32x32+sr", config(consumers=4), "m64n64k32.s32.s8.s8", (4, 1, 0, 1),
    ),
    "jetfire, four, parts": (
        "jetfire:int8.b32x32",
        config(consumers=4, parts=2, cluster=2),
        "m64n32k32.s32.s8.s8",
        (4, 1, 0, 1),
    ),
    "64, parts": (
        "jetfire-64:bf16", config(parts=2, cluster=2), "m64n64k32.s32.s8.s8", (2, 1, 0, 1),
    ),
    "mx, parts": ("mxfp8-e4m3:bf16", config(parts=2), "m64n64k32.f32.e4m3.e4m3", (4, 0, 1, 1)),
    "mx, tall, parts": (
        "mxfp8-e4m3:bf16",
        config(block_m=256, block_n=64, stages=4, parts=2),
        "m64n64k32.f32.e4m3.e4m3",
        (4, 0, 1, 1),
    ),
    "mx, four, parts": (
        "mxfp8-e4m3:int8.b64x64",
        config(block_m=256, block_n=64, stages=4, consumers=4, parts=2),
        "m64n32k32.f32.e4m3.e4m3",
        (4, 0, 1, 1),
    ),
    "mxint8": ("mxint8:fp32", config(), "m64n128k32.s32.s8.s8", (4, 1, 1, 1)),
    "1x128": ("e4m3-b1x128:fp32", config(sets=1), "m64n128k32.f32.e4m3.e4m3", (1, 0, 1, 1)),
    "1x128, codes": (
        "e4m3-b1x128:e4m3fn.b32x32", config(), "m64n128k32.f32.e4m3.e4m3", (1, 0, 1, 1),
    ),
    "128": ("e4m3-b128:fp32", config(cluster=2), "m64n128k32.f32.e4m3.e4m3", (1, 0, 0, 1)),
    "128, integers": (
        "int8-b128:e4m3fn.b64x64", config(), "m64n128k32.s32.s8.s8", (1, 1, 0, 1),
    ),
    "128, codes": (
        "int8-b128:int8.b128x128+sr", config(stages=5), "m64n128k32.s32.s8.s8", (1, 1, 0, 1),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED)
def test_the_loop_holds_the_instructions_that_the_header_counts(case: str) -> None:
    text, one, instruction, (units, converts, multiplies, adds) = COMPILED[case]
    problem = gemm(text)
    found = compiled(problem, one)
    assert f"wgmma.mma_async.sync.aligned.{instruction}" in found.ptx
    assert (".multicast::cluster" in found.ptx) == (one.cluster > 1)
    # A loop holds a stage, or two stages of one unit each where sets take turns.
    stages = 2 if units == 1 and one.sets == 2 else 1
    if one.run > 1:
        stages = one.run * one.sets // units
    rows = int(consumer_tile(ConfigTable.of([one]))[0][0]) // 64
    pieces = stages * units * one.parts
    products = stages * 4 * max(rows, one.parts)
    # Jumps back out of waits that are rarely taken make shorter loops, of part of it.
    every = loops(found.machine_code(), holding_others=True)
    body = min((b for b in every if _products(b) >= products), key=len)
    assert _products(body) == products
    names = Counter(opcode.split(".")[0] for opcode in body)
    accumulators = stages * units * one.block_m * one.block_n // (128 * one.consumers)
    starts = accumulators // (one.run * one.sets) if one.run > 1 else 0
    assert names["FFMA"] == accumulators * adds + starts
    assert names["I2FP"] == accumulators * converts
    assert names["I2F"] == 0
    few = stages * units * 4 * rows  # scales of blocks, or of MXINT8's rows
    assert accumulators * multiplies <= names["FMUL"] <= accumulators * multiplies + few
    # No flush of subnormals, whatever the launcher's compiler is told.
    assert not any(".FTZ" in opcode for opcode in body if opcode.startswith(("FFMA", "FMUL")))
    # The whole loop is no longer than the cost model says.
    table = ConfigTable.of([one])
    assert len(body) <= 1.08 * stages * promotion_slots(problem, table)[0]
    if one.spread:
        return
    # From one wait to the next: all products, then all sums.  Of several pieces in flight the last
    # before the jump back starts none, and the first behind it starts two.
    if one.sets * one.parts > 1:
        waits = [i for i, opcode in enumerate(body) if opcode.startswith("WARPGROUP.DEPBAR")]
        assert len(waits) == pieces
        if one.run > 1:
            return  # every stage of the body begins like its first
        several = one.sets * one.parts > 2
        for wait, (start, end) in enumerate(pairwise([*waits, len(body)])):
            between = [opcode for opcode in body[start:end] if re.match("[IQ]GMMA|FFMA", opcode)]
            kinds = [key for key, _ in groupby(between, key=lambda o: "GMMA" in o)]
            assert kinds == ([False] if several and wait == pieces - 1 else [True, False])
            assert between.count("FFMA") == accumulators / pieces
            started = (2 if wait == 0 else wait < pieces - 1) if several else 1
            assert _products(between) == started * products / pieces


def test_one_configuration_compiles_as_promised() -> None:
    found = compiled(gemm("jetfire:int8.b32x32"), config())
    assert "cp.async.mbarrier.arrive.noinc" in found.ptx
    assert "redux.sync.max.u32" in found.ptx


SAMPLED = (
    "jetfire:bf16",
    "jetfire-64:fp16",
    "mxfp8-e4m3:int8.b64x64",
    "mxint8:bf16",
    "e4m3-b1x128:e4m3fn.b64x64",
    "e4m3-b128:bf16",
    "int8-b128:int8.b64x64+sr",
    "int8-b128:int8.b128x128+sr",
)


@cache
def sampled() -> dict[str, list[TileConfig]]:
    tables = {text: FAMILY.legal_space(gemm(text), H200).accepted for text in SAMPLED}
    return sample(tables, apart=["consumers", "sets"], free=["group_m"])


@pytest.mark.slow
@pytest.mark.parametrize("text", SAMPLED)
def test_any_legal_configuration_compiles_without_spills(text: str) -> None:
    for one in sampled()[text]:
        assert isinstance(one, HopperBlockGemmConfig)
        compiled(gemm(text), one)


def test_compile_facts_without_a_gpu() -> None:
    problem, one = gemm("mxfp8-e4m3:bf16"), config(stages=4, sets=1)
    facts = FAMILY.compile_offline(problem, one, H200)
    assert facts is not None
    assert (facts.target, facts.threads, facts.mma) == ("sm_90a", threads(one), "wgmma")
    assert (facts.pipeline_depth, facts.stack_bytes) == (4, 0)
    assert facts.smem_bytes == block_smem_bytes(problem, ConfigTable.of([one]))[0]
    assert facts.refusal(H200) == ""


def test_the_source_has_no_default_for_a_macro() -> None:
    options = gemm_hopper_blocks.options(
        element="int8", out="bf16", scales="b32x32", config=config().to_dict()
    )
    without = [option for option in options if not option.startswith("-DBLOCK_N=")]
    with pytest.raises(OfflineCompileError, match="BLOCK_N"):
        compile_cuda(SOURCE, without)
