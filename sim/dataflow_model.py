"""The cost of the dataflow kernels: bytes, issue slots and the special-function pipe.

INT8 in and out moves so few bytes an element that instructions count: an H200 copies two bytes an
element in the time of 15 instructions.  Counts were read off the SASS of 32 x 32 blocks, compiled
for sm_90 (NVRTC 13.0) with two and four vectors a thread.  A CTA goes from block to block: a round
takes what all CTAs of an SM ask of its busiest resource, and no less than the CTA's own chain.

Left out: a table of activations that is filled for each block beyond its issue slots, instructions
of 8-bit floats beyond a difference, where a cluster's CTAs may lie, and spills.
"""

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.gpu import Gpu
from sim.memory import l2_ns, overlap, saturation
from sim.occupancy import ctas_per_sm
from sim.parameters import DATAFLOW_ROW, DataflowRowParameters, StreamParameters
from sim.pipes import WIDE_MULTIPLY_SLOTS
from sim.waves import waves
from tiles.formats import IntElement, Rounding
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.dataflow_blocks import (
    BLOCK_OPS,
    TABLED_ELEMENTS,
    block_registers,
    block_smem_bytes,
    blocks_at_once,
    line_bytes,
)
from tiles.kernels.dataflow_family import block_of, items
from tiles.kernels.dataflow_rows import row_registers, row_smem_bytes, row_steps
from tiles.problems import Dataflow

__all__ = ["dataflow_cost", "instructions"]

F64 = NDArray[np.float64]

#: Instructions an element rounded to nearest, without what is done once a block and thread.  Of
#: activations: looked up in a table (TABLED), worked out (the others).
ELEMENT_INSTRUCTIONS = {
    "gelu": 14.2, "gelu-bwd": 20.4, "silu": 10.0, "silu-bwd": 15.0, "relu": 4.0, "relu-bwd": 6.5,
    "dropout": 11.4, "residual": 10.3, "layernorm": 12.5, "layernorm-apply": 8.8,
    "layernorm-bwd": 30.2, "rmsnorm": 12.0, "rmsnorm-apply": 8.5, "rmsnorm-bwd": 27.6,
}  # fmt: skip
TABLED = {"gelu": 7.6, "gelu-bwd": 12.0, "silu": 7.0, "silu-bwd": 11.4}
#: Special functions an element that is not looked up.
SPECIAL_FUNCTIONS = {"gelu": 2, "gelu-bwd": 3, "silu": 2, "silu-bwd": 2}
#: int8 codes an element that the special-function pipe converts to floats, likewise.
CONVERSIONS = {
    "gelu": 1, "gelu-bwd": 2, "silu": 1, "silu-bwd": 2, "residual": 2, "layernorm": 1,
    "layernorm-apply": 1, "layernorm-bwd": 2, "rmsnorm": 1, "rmsnorm-apply": 1, "rmsnorm-bwd": 2,
}  # fmt: skip
TABLED_CONVERSIONS = {"gelu-bwd": 1, "silu-bwd": 1}
#: Lanes of a warp look up different words of a table: so many lie in the busiest bank.
BANK_CONFLICTS = 3.5
#: Once a thread and block: places, scales, the largest value over the lanes.  Once a thread.
BLOCK_INSTRUCTIONS, THREAD_INSTRUCTIONS = 105.0, 85.0
#: Once a block where a warp moves lines: places are worked out once a tile.
LINED_INSTRUCTIONS = 70.0
#: Once a thread and row group: sums over its lanes, warps and CTAs.
ROW_INSTRUCTIONS = 500.0
#: Philox, 40 for eight elements, and what rounding takes beyond the addition to nearest.
STOCHASTIC_INSTRUCTIONS = 6.0
#: Wide multiplications an element, see ``sim.pipes``.
STOCHASTIC_MULTIPLIES = 2.25
#: e4m3fn: decoding is cheaper than int8's, stochastic rounding dearer.
FLOAT8_INSTRUCTIONS, FLOAT8_STOCHASTIC = 0.0, 3.0
#: Clocks from an instruction of a warp to the next one, which mostly needs its result, and the
#: norm of a CTA's own chain and of what its SM does meanwhile.  Set on nine operators at
#: 8192 x 8192 (``data/h200/later_sweeps``), with instructions counted in the code of then.
DEPENDENT_CLK, CHAIN_EXPONENT = 3.0, 2.0
#: Of DRAM's bandwidth, what reading two matrices and writing a third reaches: pages of three at a
#: time.  Set on backward ReLU, likewise.
TWO_INPUTS_SHARE = 0.8


def _tabled(problem: Dataflow) -> bool:
    """Whether activations are looked up: blocks are large enough to fill a table for each."""
    rows, cols = block_of(problem)
    return problem.op in TABLED and rows * cols >= TABLED_ELEMENTS


def _special_functions(problem: Dataflow) -> int:
    """Of the special-function pipe, an element: functions, and conversions of int8 codes."""
    tabled = _tabled(problem)
    functions = 0 if tabled else SPECIAL_FUNCTIONS.get(problem.op, 0)
    if not isinstance(problem.target.element, IntElement):
        return functions
    return functions + (TABLED_CONVERSIONS if tabled else CONVERSIONS).get(problem.op, 0)


def instructions(problem: Dataflow, table: ConfigTable) -> F64:
    """Issue slots an element, everything included."""
    count = TABLED[problem.op] if _tabled(problem) else ELEMENT_INSTRUCTIONS[problem.op]
    stochastic = problem.target.rounding is Rounding.STOCHASTIC
    if stochastic:
        count += STOCHASTIC_INSTRUCTIONS
    count += _multiplies(problem) * (WIDE_MULTIPLY_SLOTS - 1)
    if not isinstance(problem.target.element, IntElement):
        count += FLOAT8_INSTRUCTIONS + FLOAT8_STOCHASTIC * stochastic
    each = 16.0 * items(problem, table)
    if problem.op in BLOCK_OPS:
        side = blocks_at_once(problem, table)
        lines = line_bytes(problem, table) > 0
        once = np.where(lines, LINED_INSTRUCTIONS, BLOCK_INSTRUCTIONS)
        once = once + THREAD_INSTRUCTIONS / (table["steps"] * side)
    else:
        once = BLOCK_INSTRUCTIONS + ROW_INSTRUCTIONS / row_steps(problem, table)
    return np.asarray(count + once / each, np.float64)


def _multiplies(problem: Dataflow) -> float:
    """Wide multiplications an element: Philox, once more for the mask of dropout."""
    stochastic = problem.target.rounding is Rounding.STOCHASTIC
    return STOCHASTIC_MULTIPLIES * (stochastic + (problem.op == "dropout"))


def dataflow_cost(
    problem: Dataflow,
    _: NumericPath,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: StreamParameters = DATAFLOW_ROW,
) -> Cost:
    """Price every configuration of a dataflow family."""
    of = parameters
    rows_of = of if isinstance(of, DataflowRowParameters) else DATAFLOW_ROW
    rows, cols = problem.shape
    elements = float(rows * cols)
    storage = problem.target.storage_bytes(rows, cols)
    one = np.ones(len(table))
    read, written = one * (problem.min_bytes - storage), one * storage
    clock_ghz = gpu.max_clock_mhz / 1e3  # streaming draws far less than the power limit
    threads = table["threads"]
    warps = threads // gpu.warp_threads
    have = items(problem, table)
    launches = 1
    if problem.op in BLOCK_OPS:
        needed = block_registers(problem, table)
        smem = block_smem_bytes(problem, table)
        blocks = problem.target.scale_count(rows, cols)
        taken = table["steps"] * blocks_at_once(problem, table)
        ctas = -(-blocks // np.maximum(threads // table["lanes"] * taken, 1))
        in_flight = threads * have * 16.0 * problem.matrices * blocks_at_once(problem, table)
        idle: F64 = np.zeros(len(table))
        rounds = taken.astype(np.float64)
        waits = 1.0 / rounds  # all loads but the first are asked for a step ahead
    else:
        needed = row_registers(problem, table)
        smem = row_smem_bytes(problem, table)
        groups = -(-rows // table["rows"])
        backward = problem.op.endswith("-bwd")
        launches += backward
        walking = backward | (table["clusters"] > 1)
        clusters = np.where(walking, np.minimum(groups, table["clusters"]), groups)
        ctas = clusters * table["splits"]
        steps = row_steps(problem, table)
        # Addends come step by step; what norms are taken of is asked for as a whole.
        at_once = 1 if problem.op == "residual" else steps
        in_flight = threads * have * 16.0 * problem.matrices * at_once
        partial = 8.0 * cols * clusters * backward
        written, read = written + partial, read + partial
        walks = -(-groups // clusters)
        rounds = (walks * steps).astype(np.float64)
        waits = one / steps  # likewise, of a row group
        # Two exchanges of sums a row group, over its steps.
        idle = 2.0 * np.where(table["splits"] > 1, rows_of.cluster_clk, 60.0) / clock_ghz / steps
    # The compiler unrolls into what the CTAs that an SM should hold leave it, up to about twice.
    allowed = gpu.registers_per_sm // np.maximum(threads * table["ctas"], 1) // 8 * 8
    registers = np.clip(allowed, needed, 2 * needed)
    occupancy = ctas_per_sm(
        gpu, registers=compiled.registers(registers), smem_bytes=compiled.smem(smem), warps=warps
    )
    spread = waves(ctas, occupancy, gpu.sm_count)
    flying = np.minimum(np.minimum(spread.capacity, ctas) * in_flight, read)
    read_gb_per_s = min(gpu.dram_read_gb_per_s, gpu.dram_copy_gb_per_s)
    dram = read / (read_gb_per_s * saturation(flying, read_gb_per_s, gpu.dram_latency_ns))
    # Reads and writes together do not exceed what a copy reaches.
    dram = np.maximum(dram, (read + written) / gpu.dram_copy_gb_per_s) / of.dram_share
    if problem.matrices > 1:
        dram = dram / TWO_INPUTS_SHARE
    moved = read + written
    # Of every SM, as if all had the same; the waves below tell which have more.
    even = 1.0 / gpu.sm_count
    l2 = l2_ns(gpu, bytes_per_sm=moved * even, bytes_total=moved, clock_ghz=clock_ghz)
    on_sm = elements * even / clock_ghz
    slots = instructions(problem, table)
    issue = on_sm * (of.instruction_share * slots) / gpu.issue_per_clk
    functions = _special_functions(problem)
    special = one * (on_sm * functions / gpu.special_per_clk)
    multiply = one * (on_sm * _multiplies(problem) / gpu.int_per_clk)
    looked_up = one * (on_sm * BANK_CONFLICTS * _tabled(problem) / gpu.warp_threads)
    cuda_cores = np.maximum(issue, np.maximum(special, multiply))
    # Few CTAs share all of DRAM; what they have in flight says how much they get.
    shared = dram * np.minimum(ctas / gpu.sm_count, 1.0)
    work = overlap(shared, l2, issue, special, multiply, looked_up, exponent=of.overlap_exponent)
    # A CTA's round: it waits for its loads, computes for each of its vectors and stores.
    per_cta = work * gpu.sm_count / (ctas * rounds)
    own_clk = DEPENDENT_CLK * slots * 16.0 * have
    chain = own_clk / clock_ghz + (of.cta_clk / clock_ghz + gpu.dram_latency_ns) * waits + idle
    if problem.op not in BLOCK_OPS:
        # Sums over rows and largest values of blocks: all its warps meet at every step.
        chain = chain + cuda_cores * gpu.sm_count / (ctas * rounds)
    full = overlap(per_cta * occupancy, chain, exponent=CHAIN_EXPONENT)
    tail = overlap(per_cta * spread.tail_per_sm, chain, exponent=CHAIN_EXPONENT)
    # CTAs drift apart from wave to wave: what a partial one costs beyond its share shows less.
    share = spread.tail_ctas / spread.capacity
    beyond = np.maximum((spread.tail_ctas > 0) * tail - share * full, 0.0)
    main = rounds * ((spread.full + share) * full + beyond / np.maximum(spread.full, 1))
    main = overlap(main, ctas * of.cta_start_ns)
    # A partial wave costs less than one of waiting where CTAs drift apart.
    latency = np.minimum(rounds * spread.count * chain, main)
    ends_us = (gpu.dram_latency_ns + of.cta_clk / clock_ghz) * launches / 1e3
    launch_us = launches * gpu.graph_launch_us
    return Cost(
        time_us=main / 1e3 + ends_us + launch_us,
        terms_us={
            "dram": dram / 1e3,
            "l2": l2 / 1e3,
            "cuda_cores": cuda_cores / 1e3,
            "load_store": looked_up / 1e3,
            "latency": latency / 1e3,
            "prologue_epilogue": ends_us * one,
            "launch": launch_us * one,
        },
        dram_read_bytes=read,
        dram_write_bytes=written,
        l2_read_bytes=read,
    )
