"""The cost of Hopper's weight-only product (``gemm_hopper_weight_only.cu``).

The time is that of DRAM by the bytes that all rings keep under way, of an SM's units (L2, issue
slots, integer units, tensor cores and shared memory, of which few warps keep only some busy at
once), or of the chain that a CTA goes through: its groups of warps in turn, or the warp that asks
for stages, which takes its time whatever their bytes.  Behind it stand the epilogue and the sums
of tiles that CTAs share, through memory or within a cluster.

Constants were set on sweeps of an H200 (``data/h200/later_sweeps``); instructions are those of the
loop that NVRTC makes for sm_90a.  Formats other than ``w4a16-g128`` and ``w8a16`` were not
measured, nor were clusters, the shorter loop of the warp that loads, products by warpgroups
(``wgmma``), and copies that begin before the CTA has met, which came later.
"""

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.gpu import Gpu
from sim.memory import dram_ns, l2_ns, load_latency_ns, overlap
from sim.occupancy import ctas_per_sm, placed_sms
from sim.parameters import HOPPER_SKINNY, HOPPER_WEIGHT_ONLY, HopperWeightOnlyParameters
from sim.pipes import SCHEDULERS, mma_clk
from sim.waves import waves
from tiles.formats import element
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_weight_only_rules import (
    SCALE_BYTES,
    held_registers,
    panels_of,
    scale_format,
    stage_bytes,
    weight_smem_bytes,
)
from tiles.kernels.hopper_weight_only_rules import warps_n as rows_of_warps
from tiles.kernels.weight_only_resources import PANEL_BYTES, group_columns, halves
from tiles.problems import Gemm

__all__ = ["hopper_weight_only_cost"]

F64 = NDArray[np.float64]

#: Instructions to decode four bytes of weights, and how many of them the integer units take, which
#: run at half the rate of issue; read off compiled loops.
DECODE_INSTRUCTIONS = {"int4": 11, "uint4": 11, "e2m1fn": 19, "int8": 8, "e4m3fn": 10}
INTEGER_INSTRUCTIONS = {"int4": 7, "uint4": 7, "e2m1fn": 15, "int8": 6, "e4m3fn": 8}
#: Of a warp whose warpgroup multiplies a panel: waits, fences and places of operands.
WAIT_INSTRUCTIONS = 24
#: Registers of a thread beside those that hold operands, from the compiler's counts.
THREAD_REGISTERS = 80


def hopper_weight_only_cost(
    problem: Gemm,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: HopperWeightOnlyParameters = HOPPER_WEIGHT_ONLY,
) -> Cost:
    """Price every configuration of a table with the columns of ``HopperWeightOnlyConfig``."""
    of = parameters
    m, n, k = problem.shape
    activation, weight = problem.recipe.activation, problem.recipe.weight
    bm, bn, stages, groups = (table[f] for f in ("block_m", "block_n", "stages", "warps_k"))
    per_sm, cluster = table["per_sm"], table["cluster"]
    sixteens, eights = table["warp_rows"] // 16, bm // 8
    warps_n, wgmma = rows_of_warps(table), table["wgmma"]
    clock_ghz = gpu.max_clock_mhz / 1e3
    panels, panel = panels_of(problem), PANEL_BYTES * halves(weight)
    group = group_columns(weight)
    out_bytes = element(problem.out).bits // 8

    # CTAs, how many share a multiprocessor, and the panels that the busiest one takes.
    tiles_m, tiles_n = -(-m // bm), -(-n // bn)
    tiles = tiles_m * tiles_n
    steps = tiles * panels
    ctas = np.where(per_sm > 0, np.minimum(steps, per_sm * gpu.sm_count), tiles * cluster)
    occupancy = ctas_per_sm(
        gpu,
        registers=compiled.registers(held_registers(problem, table) + THREAD_REGISTERS),
        smem_bytes=compiled.smem(weight_smem_bytes(problem, table)),
        warps=warps_n * groups + 1,
    )
    placed = placed_sms(gpu, cluster, of.packed_share)
    spread = waves(ctas, occupancy, placed)
    busiest = spread.full * occupancy + spread.tail_per_sm
    resident = np.minimum(ctas, spread.capacity)
    together = np.minimum(occupancy, -(-ctas // gpu.sm_count))
    share = -(-steps // ctas)
    sm_steps = busiest * share

    # Traffic: tiles along M are neighbours and find W in the L2.
    w_bytes, x_bytes = float(weight.storage_bytes(n, k)), float(activation.storage_bytes(m, k))
    dram_read = np.full(len(table), w_bytes + x_bytes)
    dram_write = np.full(len(table), float(m * n * out_bytes))
    # A last tile of fewer rows reads fewer.
    filled = n / (tiles_n * bn)
    scale_row = SCALE_BYTES[scale_format(weight)] * (panel / min(group, panel) if group else 0)
    scale_row = scale_row + (panel / min(group, panel) if weight.asymmetric else 0)
    w_step = bn * filled * (PANEL_BYTES + scale_row)
    x_step = np.minimum(m, bm) * panel * 2.0
    shared = np.where((per_sm > 0) & (ctas > 1), np.minimum(2.0 * ctas, tiles + 1.0 * ctas), 0.0)
    partial = np.where(steps % np.maximum(ctas, 1) == 0, 0.0, 2 * shared) * bm * bn * 4.0
    l2_total = steps * (w_step + x_step) + partial
    memory_ns = dram_ns(
        gpu,
        read_bytes=dram_read,
        write_bytes=dram_write,
        in_flight_bytes=resident * np.minimum(stages, share) * w_step,
    )

    # A stage on an SM's units, clocks.
    words = sixteens * 2 * 4 * (PANEL_BYTES // 64)
    few = panel // min(group, 64) if group else panel // 64
    parts = np.where((sixteens * eights > 2) & (group % panel == 0), 1, few)  # as the kernel's PART
    parts = np.where(wgmma, 1, parts)
    products = sixteens * np.where(wgmma, 1, eights) * (panel // 16)
    decode = words * DECODE_INSTRUCTIONS[weight.element.name] * of.decode_share
    scales = sixteens * 2 * (2 * (panel // min(group, panel) if group else 0))
    operands = 2 * sixteens + np.where(wgmma, WAIT_INSTRUCTIONS, eights * panel // 32)
    promotion = sixteens * eights * parts * 4
    instructions = decode + products + scales + operands + promotion + of.stage_instructions
    issue = warps_n * instructions / (SCHEDULERS * of.issue_share)
    integers = warps_n * 2.0 * words * INTEGER_INSTRUCTIONS[weight.element.name] / SCHEDULERS
    by_warps = mma_clk(
        gpu,
        bn,
        bm,
        np.full(len(table), panel),
        warps_n,
        element=activation.element.name,
        warpgroups=np.zeros(len(table), np.bool_),
    )
    # With weights in registers shared memory feeds a product at half of its rate: none is starved.
    rate = gpu.tensor_flop_per_clk[activation.element.name] * gpu.tensor_share
    tensor = np.where(wgmma, 2.0 * (-(-bn // 64) * 64) * bm * panel / rate, by_warps)
    readers = np.where(wgmma, warps_n // 4, warps_n)  # of X
    smem = (
        2 * stage_bytes(problem, table) + (readers - 1) * bm * panel * 2
    ) / gpu.smem_bytes_per_clk
    l2 = l2_ns(
        gpu,
        bytes_per_sm=sm_steps * (w_step + x_step),
        bytes_total=l2_total,
        clock_ghz=clock_ghz,
    )

    # What one CTA goes through: its groups of warps take turns, its ring comes round in a latency.
    latency_ns = load_latency_ns(gpu, np.ones(len(table)), np.ones(len(table), np.bool_))
    lone = np.maximum(
        (of.stage_clk + instructions * of.instruction_clk) / groups,
        np.maximum(latency_ns * clock_ghz / stages, of.request_clk),
    )
    turns = busiest / together
    chain = turns * share * lone
    units = overlap(
        sm_steps * issue,
        sm_steps * integers,
        sm_steps * tensor,
        sm_steps * smem,
        l2 * clock_ghz,
        exponent=of.units_exponent,
    )
    # Barriers and reads between CTAs of a cluster are those that hopper_skinny_gemm was timed with.
    peers = HOPPER_SKINNY
    gathered = (
        2 * peers.cluster_barrier_clk
        + peers.peer_latency_clk
        + bm * bn * 4.0 / peers.peer_bytes_per_clk
    )
    cut = (per_sm > 0) & ((share * ctas != steps) | (share % panels != 0))
    staged = groups * bm * bn * 8.0 / gpu.smem_bytes_per_clk
    ends_clk = (
        of.setup_clk
        + latency_ns * clock_ghz
        + np.maximum(turns, 1.0) * (of.epilogue_clk + staged)
        + np.where(cluster > 1, gathered, 0.0)
        + np.where(cut, of.share_clk + bm * bn * 8.0 / 64, 0.0)
    )
    time_ns = (
        overlap(memory_ns, units / clock_ghz, chain / clock_ghz, exponent=of.overlap_exponent)
        + ends_clk / clock_ghz
    )
    launch_us = gpu.graph_launch_us + of.device_floor_us
    to_us = sm_steps / (clock_ghz * 1e3)
    terms = {
        "tensor": tensor * to_us,
        "cuda_cores": np.maximum(issue, integers) * to_us,
        "shared_memory": smem * to_us,
        "l2": l2 / 1e3,
        "dram": memory_ns / 1e3,
        "latency": chain / (clock_ghz * 1e3),
        "prologue_epilogue": ends_clk / (clock_ghz * 1e3),
        "launch": np.full(len(table), launch_us),
    }
    return Cost(
        time_us=time_ns / 1e3 + launch_us,
        terms_us=terms,
        dram_read_bytes=dram_read,
        dram_write_bytes=dram_write,
        l2_read_bytes=l2_total,
    )
