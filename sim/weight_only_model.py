"""The cost of weight-only products: packed weights read once, decoded by the CUDA cores.

Warps of a scheduler share its issue slots and wait side by side for their own chains: loads from
shared memory, products that add to the sums of the last, warpgroup products to end.  Scales of
groups are asked for two panels ahead, so a panel takes half of a load's latency at least.
Instructions were read off the code that Triton 3.7.1 makes for sm_90; constants were set on sweeps
of an H200, see ``sim.parameters.gemm``.

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
from sim.pipes import SCHEDULERS, mma_clk, shared_clk
from sim.traffic import miss_share
from sim.waves import waves
from tiles.formats import element
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.weight_only_resources import (
    PANEL_BYTES,
    group_columns,
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
#: Panels that scales are asked for ahead of their use.
SCALES_AHEAD = 2


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
    cta_tensor_clk = mma_clk(
        gpu,
        bn,
        bm,
        np.full(len(table), columns),
        warps,
        element=activation.element.name,
        warpgroups=warpgroups,
    )
    tensor_clk = all_iterations * cta_tensor_clk
    slots = _warp_slots(problem, table, warpgroups, threads, of)
    cuda_clk = all_iterations * slots * warps / SCHEDULERS / of.issue_share
    # What a warp waits for in an iteration beside others' instructions: its own chain of loads
    # from shared memory, decoding and products, and, with a panel's scales under way, those.
    latency = of.loaded_latency * gpu.dram_latency_ns
    wait_clk = of.wait_clk + columns / 16 * of.step_clk + cta_tensor_clk
    # A pass of a loop with warpgroup products waits for them: they read registers.
    wait_clk = wait_clk + warpgroups * of.drain_clk
    grouped = group_columns(weight) > 0
    least_clk = latency * clock_ghz / SCALES_AHEAD if grouped else 0.0
    rounds = [
        np.maximum(
            shared_clk(slots / of.issue_share, wait_clk, -(-resident * warps // SCHEDULERS)),
            np.maximum(least_clk, resident * cta_tensor_clk),
        )
        for resident in (
            np.minimum(occupancy, -(-tiles * split // gpu.sm_count)),
            spread.tail_per_sm,
        )
    ]
    compute = (
        iterations * (spread.full * rounds[0] + (spread.tail_ctas > 0) * rounds[1]) / clock_ghz
    )

    # A CTA's own pipeline: stages that come round every latency at best.
    lone = iterations * np.maximum(latency / np.maximum(stages - 1, 1), 0.0) * spread.count
    ends_ns = gpu.dram_latency_ns + of.cta_clk / clock_ghz * spread.count + of.device_floor_us * 1e3
    reduce_ns = np.where(
        split > 1,
        of.arrival_us * 1e3 + split * bm * bn * 4 / (gpu.l2_bytes_per_clk_per_sm * clock_ghz),
        0.0,
    )
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


def _warp_slots(
    problem: Gemm,
    table: ConfigTable,
    warpgroups: NDArray[np.bool_],
    threads: NDArray[np.int64],
    of: WeightOnlyParameters,
) -> F64:
    """Instructions of one warp for a panel: decoding, products, scales, copies and the loop."""
    weight = problem.recipe.weight
    bm, bn, warps = table["block_m"], table["block_n"], table["num_warps"]
    columns = PANEL_BYTES * halves(weight)
    decode = DECODE_INSTRUCTIONS[weight.element.name] + FOLD_INSTRUCTIONS * table["fold"]
    # Where warps stand side by side along M, each decodes the weights that it multiplies.
    repeated = np.maximum(1.0, 16.0 * warps / bn)
    slots = bn * columns * (of.decode_share * decode) * repeated / threads + of.loop_instructions
    slots = slots + np.where(promoted(problem, table), bm * bn / threads, 0.0)
    # Under mma.sync a warp reads all activations that it multiplies, and issues each product.
    along_n = np.minimum(warps, np.maximum(bn // 16, 1))
    # A thread has the scales of 2 of every 16 rows.
    if group_columns(weight):
        slots = slots + bn / along_n / 8 * of.scale_instructions
    own = bm * columns * along_n / warps
    products = bn / along_n / 16 * own / 128
    slots = slots + np.where(warpgroups, 0.0, own / 128 + products)
    copied = bn * PANEL_BYTES + bm * columns * 2.0
    slots = slots + np.where(table["tma"], 0.0, copied / 16 / threads * of.copy_instructions)
    return np.asarray(slots, np.float64)
