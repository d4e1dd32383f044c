"""The cost of the dataflow kernels: bytes, issue slots, and turns of warps and CTAs on an SM.

INT8 in and out moves so few bytes an element that instructions count: an H200 copies two bytes an
element in the time of 15 instructions (``sim.dataflow_instructions``).  A warp that has blocks to
itself meets nobody before its last one; elsewhere all warps of a CTA meet at every step, or at
every row group.  What meets takes turns as one (``sim.resident_turns``).

Left out: instructions of 8-bit floats beyond a difference, where a cluster's CTAs may lie beyond
the share of multiprocessors that clusters find room on, and where spilled registers go.
"""

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.dataflow_instructions import (
    instructions,
    moves_lines,
    special_functions,
    tabled,
    wide_multiplies,
)
from sim.dataflow_walk import by_blocks, by_rows
from sim.gpu import Gpu
from sim.memory import l2_ns, overlap, saturation, segment_share
from sim.occupancy import QUARTERS, ctas_per_sm
from sim.parameters import DATAFLOW_ROW, TURNS, DataflowRowParameters, StreamParameters
from sim.resident_turns import turn_ns
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.dataflow_blocks import BLOCK_OPS
from tiles.kernels.dataflow_family import VECTOR, items
from tiles.problems import Dataflow

__all__ = ["dataflow_cost"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Set on the rows in view of ``data/h200/rewritten_sweeps``: 168 timings of 14 operators.
#: Clocks from an instruction of a warp to the next one, which mostly needs its result.
DEPENDENT_CLK = 2.15
#: Issue slots of a multiplication of 32 bits to 64, and of a conversion or special function: their
#: pipes have a quarter and an eighth of the schedulers' rate, and warps at the same place of a
#: kernel ask for them together.
WIDE_SLOTS, SPECIAL_SLOTS = 2.5, 3.0
#: Of the norm that joins a warp's or CTA's own chain and what it queues for; of CTAs whose warps
#: meet at every step, of which fewer fill one another's gaps.
CHAIN_EXPONENT, MEETING_EXPONENT = 4.0, 2.0
#: Longer chain of a table of activations that several warps fill and look up between barriers.
TABLE_CHAIN = 1.6
#: Issue slots once a block of a register that is spilled: stored, loaded, waited for.
SPILLED_SLOTS = 7.5
#: Of its chain, what a warp that meets the others at every step waits longer for each warp beyond
#: the first on its scheduler: the last one ends alone.  Row groups, whose first pass nobody meets
#: in, show none of it.
SKEW_SHARE = 0.35
#: Lanes of a warp look up different words of a table: so many lie in the busiest bank.
BANK_CONFLICTS = 3.5
#: Of what a partial wave costs beyond its share, over the waves before it: CTAs drift apart.
DRIFT_SHARE = 0.8
# Not set on them:
#: Of the multiprocessors, those that clusters of more than two CTAs find room on, as
#: ``HopperSkinnyParameters.packed_share`` has it from other kernels; of those tried it is the best
#: on rows held out, too.
PACKED_SHARE = 0.9


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
    rows, cols = problem.shape
    size = float(rows * cols)
    storage = problem.target.storage_bytes(rows, cols)
    clock_ghz = gpu.max_clock_mhz / 1e3  # streaming draws far less than the power limit
    threads = table["threads"]
    warps = threads // gpu.warp_threads
    backward_rows = problem.op not in BLOCK_OPS and problem.op.endswith("-bwd")
    launches = 1 + backward_rows
    if problem.op in BLOCK_OPS:
        walk = by_blocks(problem, table, gpu)
    else:
        rows_of = of if isinstance(of, DataflowRowParameters) else DATAFLOW_ROW
        walk = by_rows(problem, table, gpu, rows_of, clock_ghz)
    read = problem.min_bytes - storage + walk.exchanged_bytes
    written = storage + walk.exchanged_bytes
    # The compiler unrolls into what the CTAs that an SM should hold leave it, up to about twice.
    allowed = gpu.registers_per_sm // np.maximum(threads * table["ctas"], 1) // 8 * 8
    registers = np.clip(allowed, walk.registers, 2 * walk.registers)
    smem = compiled.smem(walk.smem_bytes)
    occupancy = ctas_per_sm(
        gpu, registers=compiled.registers(registers), smem_bytes=smem, warps=warps
    )
    ctas, capacity = walk.ctas, _capacity(gpu, occupancy, walk.cluster)

    flying = np.minimum(np.minimum(capacity, ctas) * walk.in_flight_bytes, read)
    read_gb_per_s = min(gpu.dram_read_gb_per_s, gpu.dram_copy_gb_per_s)
    dram = read / (read_gb_per_s * saturation(flying, read_gb_per_s, gpu.dram_latency_ns))
    # Reads and writes together do not exceed what a copy reaches.
    dram = np.maximum(dram, (read + written) / gpu.dram_copy_gb_per_s) / of.dram_share
    dram = dram / segment_share(walk.piece_bytes.astype(np.float64), TURNS.request_bytes)
    moved = read + written
    # Of every SM, as if all had the same; the waves below tell which have more.
    even = 1.0 / gpu.sm_count
    l2 = l2_ns(gpu, bytes_per_sm=moved * even, bytes_total=moved, clock_ghz=clock_ghz)
    on_sm = size * even / clock_ghz
    each = VECTOR * items(problem, table) * 1.0
    counted = instructions(problem, table) + SPILLED_SLOTS * compiled.spilled_registers / each
    slow = (WIDE_SLOTS - 1) * wide_multiplies(problem)
    slots = counted + slow + (SPECIAL_SLOTS - 1) * special_functions(problem)
    issue = on_sm * (of.instruction_share * slots) / gpu.issue_per_clk
    one = np.ones(len(table))
    special = one * (on_sm * special_functions(problem) / gpu.special_per_clk)
    multiply = one * (on_sm * wide_multiplies(problem) / gpu.int_per_clk)
    # Look-ups, and of tiles in shared memory a word of four codes from and to DRAM and registers.
    lines = moves_lines(problem, table)
    accesses = BANK_CONFLICTS * tabled(problem) + lines * (problem.matrices + 1) / 2
    load_store = one * (on_sm * accesses / gpu.warp_threads)
    # Few CTAs share all of DRAM; what they have in flight says how much they get.
    shared = dram * np.minimum(ctas / gpu.sm_count, 1.0)
    work = overlap(shared, l2, issue, special, multiply, load_store, exponent=of.overlap_exponent)

    # Turns of what shares an SM: CTAs, or warps that wait for nobody.
    exponent = np.where(lines, CHAIN_EXPONENT, MEETING_EXPONENT)
    units = np.where(walk.alone, warps, 1)
    of_unit = work * gpu.sm_count / (ctas * walk.turns * units)
    last = SKEW_SHARE * (np.maximum(warps / QUARTERS, 1.0) - 1.0) * (problem.op in BLOCK_OPS)
    meeting = (TABLE_CHAIN if tabled(problem) else 1.0) * (1.0 + last)
    chain = DEPENDENT_CLK / clock_ghz * counted * walk.elements * np.where(lines, 1.0, meeting)
    of_turn = read / (ctas * walk.turns) / (gpu.l2_bytes_per_clk_per_sm * clock_ghz)
    latency = of.cta_clk / clock_ghz + gpu.dram_latency_ns + walk.ahead * of_turn
    waits = latency * walk.cold + walk.idle_ns

    def wave_ns(beside: F64) -> F64:
        """Of CTAs so many of which an SM holds: whole turns, and one that not all have."""
        whole = np.floor(walk.turns)
        left = walk.turns - whole
        held = np.maximum(beside, 1.0)
        of_all, of_some = (
            turn_ns(k * units, work=of_unit, chain=chain, waits=waits, exponent=exponent)
            for k in (held, np.maximum(held * left, 1.0))
        )
        return whole * of_all + np.where(left > 0, of_some, 0.0)

    full_waves, left_over = ctas // capacity, ctas % capacity
    full = wave_ns(np.minimum(capacity, ctas) / gpu.sm_count)
    tail = wave_ns(left_over / gpu.sm_count)
    share = left_over / capacity
    beyond = np.maximum((left_over > 0) * tail - share * full, 0.0)
    waved = (full_waves + share) * full + DRIFT_SHARE * beyond / np.maximum(full_waves, 1)
    starts: F64 = ctas * of.cta_start_ns + 0.0 * full
    main = overlap(np.where(full_waves > 0, waved, full), starts)
    # A partial wave costs less than one of waiting where CTAs drift apart.
    waves = full_waves + (left_over > 0)
    latency_ns = np.minimum(np.ceil(walk.turns) * waves * (chain + waits), main)
    ends_us = (gpu.dram_latency_ns + of.cta_clk / clock_ghz) * launches / 1e3
    launch_us = launches * gpu.graph_launch_us
    return Cost(
        time_us=main / 1e3 + ends_us + launch_us,
        terms_us={
            "dram": dram / 1e3,
            "l2": l2 / 1e3,
            "cuda_cores": np.maximum(issue, np.maximum(special, multiply)) / 1e3,
            "load_store": load_store / 1e3,
            "latency": latency_ns / 1e3,
            "prologue_epilogue": ends_us * one,
            "launch": launch_us * one,
        },
        dram_read_bytes=read,
        dram_write_bytes=written,
        l2_read_bytes=read,
    )


def _capacity(gpu: Gpu, occupancy: I64, cluster: I64) -> I64:
    """CTAs resident together; clusters of more than two do not find room on every SM."""
    placed = (gpu.sm_count * occupancy * PACKED_SHARE / cluster).astype(np.int64) * cluster
    packed = np.where(cluster > 2, placed, gpu.sm_count * occupancy)
    capacity: I64 = np.maximum(packed, cluster)
    return capacity
