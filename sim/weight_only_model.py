"""The cost of weight-only products: packed weights read once, decoded by the CUDA cores.

Bytes, instructions read off the code that Triton 3.7.1 makes for sm_90, the tensor cores' rates,
and the pace of a CTA's own loop.  209 timings on an H200 (4-bit and 8-bit weights, 1 to 2048 rows)
set that pace; measured times are 1.11 of predicted ones in the geometric mean, with a standard
deviation of 0.29 in log.

Left out: bank conflicts, the raster's effect on what the L2 keeps (each tile row of weights is
taken to be read once a wave that needs it), drift between CTAs, power.
"""

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.gpu import Gpu
from sim.memory import l2_ns, overlap, saturation
from sim.occupancy import ctas_per_sm
from sim.parameters import WEIGHT_ONLY, WeightOnlyParameters
from sim.pipes import ISSUE_LANES, mma_clk
from sim.traffic import miss_share
from sim.waves import waves
from tiles.formats import element
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.weight_only_resources import (
    PANEL_BYTES,
    halves,
    promoted,
    registers,
    smem_bytes,
    uses_wgmma,
)
from tiles.problems import Gemm

__all__ = ["weight_only_cost"]

F64 = NDArray[np.float64]

#: Instructions to decode a weight; read off compiled loops.
DECODE_INSTRUCTIONS = {"int4": 1.5, "uint4": 1.5, "int8": 2.25, "e4m3fn": 2.75, "e2m1fn": 2.9}
#: Instructions to multiply a weight by its scale, two a packed instruction.
FOLD_INSTRUCTIONS = 0.5

#: Clocks of a pass of the loop beside a thread's instructions (barriers, loads from shared memory,
#: products that wait for each other), and between two of its instructions.  Set by hand on 209
#: timings of decode steps and prefill on an H200.
CHAIN_CLK, INSTRUCTION_CLK = 600.0, 3.0


def weight_only_cost(
    problem: Gemm,
    _: NumericPath,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: WeightOnlyParameters = WEIGHT_ONLY,
) -> Cost:
    """Price every configuration of a table with the columns of ``WeightOnlyConfig``."""
    of = parameters
    m, n, k = problem.shape
    activation, weight = problem.recipe.activation, problem.recipe.weight
    bm, bn, warps = table["block_m"], table["block_n"], table["num_warps"]
    split, stages = table["split_k"], table["num_stages"]
    threads = warps * gpu.warp_threads
    columns = PANEL_BYTES * halves(weight)
    panels = -(-k // columns)
    tiles_m, tiles_n = -(-m // bm), -(-n // bn)
    tiles = tiles_m * tiles_n
    iterations = -(-panels // split)
    warpgroups = uses_wgmma(table, gpu.capability)

    occupancy = ctas_per_sm(
        gpu,
        registers=compiled.registers(registers(problem, table, gpu.warp_threads)),
        smem_bytes=compiled.smem(smem_bytes(problem, table, gpu.capability)),
        warps=warps,
    )
    spread = waves(tiles * split, occupancy, gpu.sm_count)
    # Small products do not draw the power that lowers the clock.
    flop_bound = problem.flops / problem.min_bytes > 200
    clock_ghz = (gpu.sustained_clock_mhz if flop_bound else gpu.max_clock_mhz) / 1e3

    # Traffic: a tile's mean share stands for it.
    w_bytes, x_bytes = float(weight.storage_bytes(n, k)), float(activation.storage_bytes(m, k))
    out_bytes = float(m * n * element(problem.out).bits // 8)
    partial_bytes = np.where(split > 1, 4.0 * split * tiles * bm * bn, 0.0)
    l2_read = tiles_m * w_bytes + tiles_n * x_bytes + partial_bytes
    # Tiles along M that are not resident together read the weights again.
    raster = np.minimum(table["group_m"], tiles_m)
    again_w = np.maximum(-(-tiles_m // np.maximum(raster, 1)) - 1, 0)
    # Partial sums are written and read once; what the L2 does not hold of them goes to DRAM.
    spilt = partial_bytes * miss_share(partial_bytes, gpu.l2_bytes)
    dram_read = (
        w_bytes
        + x_bytes
        + spilt
        + again_w * w_bytes * miss_share(np.full(len(table), w_bytes), gpu.l2_bytes)
    )
    held = np.maximum(stages - 1, 1) * (bn * PANEL_BYTES + bm * columns * 2.0)
    in_flight = np.minimum(spread.capacity, tiles * split) * held
    busy = saturation(in_flight, gpu.dram_read_gb_per_s, of.loaded_latency * gpu.dram_latency_ns)
    dram_write = out_bytes + spilt
    dram = dram_read / (gpu.dram_read_gb_per_s * busy) + dram_write / gpu.dram_copy_gb_per_s

    # What the fullest SM does.
    share = (spread.full * occupancy + spread.tail_per_sm) / (tiles * split)
    through_l2 = l2_read + out_bytes + partial_bytes
    l2 = l2_ns(gpu, bytes_per_sm=through_l2 * share, bytes_total=through_l2, clock_ghz=clock_ghz)
    all_iterations = tiles * split * iterations * share
    tensor_clk = all_iterations * mma_clk(
        gpu,
        bn,
        bm,
        np.full(len(table), columns),
        warps,
        element=activation.element.name,
        warpgroups=warpgroups,
    )
    decode = DECODE_INSTRUCTIONS[weight.element.name] + FOLD_INSTRUCTIONS * table["fold"]
    # Where warps stand side by side along M, each decodes the weights that it multiplies.
    repeated = np.maximum(1.0, 16.0 * warps / bn)
    issue_clk = (
        bn * columns * (of.decode_share * decode) * repeated
        + threads * of.loop_instructions
        + np.where(promoted(problem, table), bm * bn, 0)
    ) / ISSUE_LANES
    # Under mma.sync activations go through registers, once a warp along N.
    issue_clk = issue_clk + np.where(
        warpgroups, 0.0, bm * columns / 16 * np.minimum(warps, bn // 16) / ISSUE_LANES
    )
    cuda_clk = all_iterations * issue_clk
    # One CTA decodes, multiplies and promotes in turn; others on the same SM fill its gaps.  Those
    # that multiply by wgmma do not: on an H200, 2048 rows took the sum of both, and as long again
    # as the copies take through shared memory where threads make them instead of the copy engine.
    resident = np.clip(tiles * split / gpu.sm_count, 1, occupancy)
    together = overlap(tensor_clk, cuda_clk, exponent=of.overlap_exponent)
    copied = np.where(table["tma"], 0.0, bn * PANEL_BYTES + bm * columns * 2.0)
    copy_clk = all_iterations * copied / gpu.smem_bytes_per_clk
    serial = tensor_clk + cuda_clk
    filled = together + (serial - together) / np.maximum(resident, 1.0)
    compute = np.where(warpgroups, serial + copy_clk, filled) / clock_ghz

    # A CTA's own pipeline: stages that come round every latency at best.
    latency = of.loaded_latency * gpu.dram_latency_ns
    # Its warps go through decoding and products one after the other, however many CTAs there are.
    chain_clk = CHAIN_CLK + INSTRUCTION_CLK * issue_clk * ISSUE_LANES / np.maximum(threads, 1)
    pass_ns = np.maximum(latency / np.maximum(stages - 1, 1), chain_clk / clock_ghz)
    lone = iterations * pass_ns * spread.count
    ends_ns = gpu.dram_latency_ns + of.cta_clk / clock_ghz * spread.count
    # CTAs of a wave leave their shares together, and nothing runs beside them.
    reduce_ns = np.where(split > 1, 2 * gpu.l2_latency_ns + split * bm * bn * 4 / 64.0, 0.0)
    reduce_ns = reduce_ns * np.maximum(spread.count, 1.0)
    main = overlap(dram, l2, compute, lone, exponent=of.overlap_exponent)
    terms = {
        "dram": dram / 1e3,
        "l2": l2 / 1e3,
        "tensor": tensor_clk / clock_ghz / 1e3,
        "cuda_cores": cuda_clk / clock_ghz / 1e3,
        "latency": lone / 1e3,
        "prologue_epilogue": (ends_ns + reduce_ns) / 1e3,
        "launch": np.full(len(table), gpu.graph_launch_us),
    }
    return Cost(
        time_us=(main + ends_ns + reduce_ns) / 1e3 + gpu.graph_launch_us,
        terms_us=terms,
        dram_read_bytes=dram_read,
        dram_write_bytes=dram_write,
        l2_read_bytes=l2_read,
    )
