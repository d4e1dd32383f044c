"""The cost of the dataflow kernels: bytes, issue slots and the special-function pipe.

INT8 in and out moves so few bytes an element that instructions count: an H200 copies two bytes an
element in the time of 15 instructions.  Counts were read off the SASS of 32 x 32 blocks, compiled
for sm_90 with two vectors a thread.  What random bits cost was set on nine timings of an H200
at 8192 x 8192 (``data/h200/sweeps``), when they took a Philox call for four elements; one for eight
takes half as many multiplications.  Kernels on rows are predicted a fifth too fast.

Left out: bank conflicts of backward's sums over rows, barriers of a cluster beyond one latency
each, and DRAM pages that 32-byte rows of a block open.
"""

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.gpu import Gpu
from sim.memory import l2_ns, overlap, saturation
from sim.occupancy import ctas_per_sm
from sim.parameters import (
    DATAFLOW_ROW,
    DataflowRowParameters,
    StreamParameters,
)
from sim.pipes import WIDE_MULTIPLY_SLOTS
from sim.waves import waves
from tiles.formats import IntElement, Rounding
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.dataflow import (
    BLOCK_OPS,
    block_registers,
    items,
    row_registers,
    row_smem_bytes,
    row_steps,
)
from tiles.problems import Dataflow

__all__ = ["dataflow_cost", "instructions"]

F64 = NDArray[np.float64]

#: Instructions an element rounded to nearest, without what is done once a block and thread.
ELEMENT_INSTRUCTIONS = {
    "gelu": 15.2, "gelu-bwd": 22.4, "silu": 11.0, "silu-bwd": 17.0, "relu": 6.8, "relu-bwd": 8.0,
    "dropout": 14.1, "residual": 13.0, "layernorm": 13.2, "layernorm-apply": 9.5,
    "layernorm-bwd": 36.0, "rmsnorm": 11.8, "rmsnorm-apply": 8.0, "rmsnorm-bwd": 36.0,
}  # fmt: skip
#: Special functions an element.
SPECIAL_FUNCTIONS = {"gelu": 2, "gelu-bwd": 3, "silu": 2, "silu-bwd": 2}
#: Once a thread and block: places, scales, the largest value over the lanes.
BLOCK_INSTRUCTIONS = 90.0
ROW_INSTRUCTIONS = 190.0
#: Philox, 40 for eight elements, and what rounding takes beyond the addition to nearest.
STOCHASTIC_INSTRUCTIONS = 5.0 + 3.5
#: Wide multiplications an element, see ``sim.pipes``.
STOCHASTIC_MULTIPLIES = 2.5
#: e4m3fn: decoding is cheaper than int8's, stochastic rounding dearer.
FLOAT8_INSTRUCTIONS, FLOAT8_STOCHASTIC = -1.0, 3.0


def instructions(problem: Dataflow, table: ConfigTable) -> F64:
    """Instructions an element, everything included."""
    count = ELEMENT_INSTRUCTIONS[problem.op]
    stochastic = problem.target.rounding is Rounding.STOCHASTIC
    if stochastic:
        count += STOCHASTIC_INSTRUCTIONS
    count += _multiplies(problem) * (WIDE_MULTIPLY_SLOTS - 1)
    if not isinstance(problem.target.element, IntElement):
        count += FLOAT8_INSTRUCTIONS + FLOAT8_STOCHASTIC * stochastic
    once = BLOCK_INSTRUCTIONS if problem.op in BLOCK_OPS else ROW_INSTRUCTIONS
    return np.asarray(count + once / (16.0 * items(problem, table)), np.float64)


def _multiplies(problem: Dataflow) -> float:
    """Wide multiplications an element: Philox, once more for the mask of dropout."""
    stochastic = problem.target.rounding is Rounding.STOCHASTIC
    return STOCHASTIC_MULTIPLIES * (stochastic + (problem.op == "dropout") / 2)


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
        smem = warps * 4
        blocks = problem.target.scale_count(rows, cols)
        ctas = -(-blocks // np.maximum(threads // table["lanes"] * table["steps"], 1))
        in_flight = threads * have * 16.0 * problem.matrices
        idle: F64 = np.zeros(len(table))
    else:
        needed = row_registers(problem, table)
        smem = row_smem_bytes(problem, table)
        groups = -(-rows // table["rows"])
        backward = problem.op.endswith("-bwd")
        launches += backward
        walking = backward | (table["clusters"] > 1)
        clusters = np.where(walking, np.minimum(groups, table["clusters"]), groups)
        ctas = clusters * table["splits"]
        steps = row_steps(problem, table) if problem.op != "residual" else 1
        in_flight = threads * have * 16.0 * problem.matrices * steps
        partial = 8.0 * cols * clusters * backward
        written, read = written + partial, read + partial
        walks = -(-groups // clusters)
        idle = walks * 2.0 * np.where(table["splits"] > 1, rows_of.cluster_clk, 60.0) / clock_ghz
    # The compiler unrolls into what the CTAs that an SM should hold leave it, up to about twice.
    allowed = gpu.registers_per_sm // np.maximum(threads * table["ctas"], 1) // 8 * 8
    registers = np.clip(allowed, needed, 2 * needed)
    occupancy = ctas_per_sm(
        gpu, registers=compiled.registers(registers), smem_bytes=compiled.smem(smem), warps=warps
    )
    spread = waves(ctas, occupancy, gpu.sm_count)
    sm_share = (spread.full * occupancy + spread.tail_per_sm) / ctas

    flying = np.minimum(np.minimum(spread.capacity, ctas) * in_flight, read)
    read_gb_per_s = min(gpu.dram_read_gb_per_s, gpu.dram_copy_gb_per_s)
    dram = read / (read_gb_per_s * saturation(flying, read_gb_per_s, gpu.dram_latency_ns))
    # Reads and writes together do not exceed what a copy reaches.
    dram = np.maximum(dram, (read + written) / gpu.dram_copy_gb_per_s) / of.dram_share
    moved = read + written
    l2 = l2_ns(gpu, bytes_per_sm=moved * sm_share, bytes_total=moved, clock_ghz=clock_ghz)
    on_sm = elements * sm_share / clock_ghz
    issue = on_sm * (of.instruction_share * instructions(problem, table)) / gpu.issue_per_clk
    special = on_sm * SPECIAL_FUNCTIONS.get(problem.op, 0) / gpu.special_per_clk
    multiply = on_sm * _multiplies(problem) / gpu.int_per_clk
    turns = spread.count.astype(np.float64) * (of.cta_clk / clock_ghz) + idle
    ends_us = (gpu.dram_latency_ns + of.cta_clk / clock_ghz) * launches / 1e3
    launch_us = launches * gpu.graph_launch_us
    # A CTA loads, computes and stores one after the other; co-resident ones fill its gaps, and so
    # do the other warps of its own unless they all wait for row sums.
    cuda_cores = np.maximum(issue, np.maximum(special, multiply))
    together = overlap(dram, l2, issue, special, multiply, turns, exponent=of.overlap_exponent)
    apart = dram + cuda_cores
    resident = np.clip(ctas / gpu.sm_count, 1, occupancy)
    filling = resident * (np.maximum(warps, 1) / 4 if problem.op in BLOCK_OPS else 1.0)
    main = together + np.maximum(apart - together, 0.0) / (filling + 1)
    return Cost(
        time_us=main / 1e3 + ends_us + launch_us,
        terms_us={
            "dram": dram / 1e3,
            "l2": l2 / 1e3,
            "cuda_cores": cuda_cores / 1e3,
            "latency": turns / 1e3,
            "prologue_epilogue": ends_us * one,
            "launch": launch_us * one,
        },
        dram_read_bytes=read,
        dram_write_bytes=written,
        l2_read_bytes=read,
    )
