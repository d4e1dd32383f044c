"""The cost of the Hopper GEMM for few rows or tiles (``gemm_hopper_skinny.cu``).

A CTA multiplies its part of K and leaves, several CTAs share a multiprocessor, and the CTAs of a
cluster add their parts at the end.  So the time is that of the slowest shared resource (DRAM by the
bytes that all rings keep under way, the L2, an SM's tensor cores, promotion and shared memory), or
of the chain that one CTA goes through where too few of them overlap, and behind it the reduction.

Rates are the GPU's; parameters have the values of ``hopper_gemm``'s where it has them, and three
were set on sweeps of an H200 (``data/h200/sweeps``).  Those have 128 rows and more: few rows, which
the kernel is for, were not measured, nor were MX scales.  Both orders of the steps along K
(``interleaved``) cost the same here: what they do to DRAM's pages has to be measured.
"""

import numpy as np
from numpy.typing import NDArray

from sim.clock import clock_ghz as busy_clock_ghz
from sim.compiled import Compiled
from sim.cost import Cost
from sim.gemm_model import dram_read_bytes
from sim.gpu import Gpu
from sim.hopper_gemm_model import NEIGHBOURS, smem_port_clk
from sim.memory import dram_ns, l2_ns, load_latency_ns, overlap
from sim.occupancy import ctas_per_sm, placed_sms
from sim.parameters import HOPPER_SKINNY, HopperSkinnyParameters
from sim.traffic import footprint, neighbours_share
from sim.waves import waves
from tiles.formats import IntElement, element
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_rules import STAGE_BYTES
from tiles.kernels.hopper_skinny import (
    MX,
    MX_UNITS,
    skinny_mode,
    skinny_smem_bytes,
    skinny_steps,
)
from tiles.problems import Gemm

__all__ = ["hopper_skinny_cost"]

F64 = NDArray[np.float64]

#: Addresses and loop state of a thread beside accumulators, from the compiler's counts.
THREAD_REGISTERS = 26
#: Under MX scales, of a step, read off the compiled loops: instructions of a consumer warp beside a
#: multiply, a multiply-add and a sixteenth of a load for every two values of a unit, and those of a
#: part; of the warp that loads beside those for every 32 rows' scales.
MX_STEP_SLOTS, MX_PART_SLOTS, MX_LOADER_SLOTS, MX_WORD_SLOTS = 45.0, 15.0, 55.0, 14.0
#: Accumulators, sums included, that a thread has room for beside two warpgroups, and beside three;
#: rows of A in a product of four under way; most of a tile that is one product; an SM's schedulers.
MX_ROOM, MX_ROOM_OF_THREE, MX_NARROW, MX_WHOLE = 128, 96, 32, 64
SCHEDULERS = 4
#: Registers of the warp that loads beside those of :data:`THREAD_REGISTERS` and scales.
MX_LOADER_REGISTERS = 10


def _mx_products(
    bm: NDArray[np.int64], bn: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Under MX scales: products of a unit, rows of A in one, and how many are under way."""
    wide = np.where(bm <= MX_WHOLE, bm, np.where(bn > 64, MX_NARROW, bm // 2))
    room = np.where(bn <= 128, MX_ROOM, MX_ROOM_OF_THREE)
    four = (wide <= MX_NARROW) & ((bm + 4 * wide) // 2 <= room)
    return bm // wide, wide, np.where(four, 4, 2)


def hopper_skinny_cost(
    problem: Gemm,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: HopperSkinnyParameters = HOPPER_SKINNY,
) -> Cost:
    """Price every configuration of a table with the columns of ``HopperSkinnyConfig``."""
    of = parameters
    bm, bn, stages = table["block_m"], table["block_n"], table["stages"]
    cluster = table["cluster"]
    m, n, k = problem.shape
    activation, weight = problem.recipe.activation, problem.recipe.weight
    mode = skinny_mode(activation, weight)
    promoted = problem.recipe.blockwise
    out_bytes = element(problem.out).bits // 8
    depth = STAGE_BYTES * 8 // activation.element.bits
    share = -(-skinny_steps(problem) // cluster)

    # CTAs, and how many share a multiprocessor.
    tiles_m, tiles_n = -(-m // bm), -(-n // bn)
    tiles = tiles_m * tiles_n
    ctas = tiles * cluster
    held = bm // 2 * (2 if promoted else 1) + (np.minimum(bm, 64) // 4 if mode == "b1x128" else 0)
    parts, wide, slots = _mx_products(bm, bn)
    if mode == MX:
        early = np.where(wide == MX_WHOLE, 4, 3 * wide // 16)  # scales read before their product
        # The warp that loads has words of two groups of steps.
        steps = np.where((bm > MX_WHOLE) | (bn > 64), 4, 8)
        words = 2 * steps * (-(-bm // 32) + bn // 32) + MX_LOADER_REGISTERS
        held = np.maximum((bm + slots * wide) // 2 + early, words)
    warps = bn // 16 + 1
    occupancy = ctas_per_sm(
        gpu,
        registers=compiled.registers(np.maximum(held + THREAD_REGISTERS, 32)),
        smem_bytes=compiled.smem(skinny_smem_bytes(problem, table)),
        warps=warps,
    )
    spread = waves(ctas, occupancy, placed_sms(gpu, cluster, of.packed_share))
    busiest = spread.full * occupancy + spread.tail_per_sm  # CTAs that one SM works through
    resident = np.minimum(ctas, spread.capacity)
    together = np.minimum(occupancy, -(-ctas // gpu.sm_count))

    # Traffic: the rows of tiles vary fastest, so CTAs that share rows of B run together.
    a_tile = activation.storage_bytes(m, k) / tiles_m
    b_tile = weight.storage_bytes(n, k) / tiles_n
    tile_wave = np.maximum(resident // cluster, 1)
    seen = footprint(tiles_m, tiles_n, tiles_m, tile_wave)
    rounds = -(-tiles // tile_wave)
    dram_read = dram_read_bytes(gpu, tiles_m, tiles_n, tiles_m, a_tile, b_tile, rounds, seen)
    dram_write = float(m * n * out_bytes)
    l2_read = tiles * (a_tile + b_tile)
    stage_bytes = (bm + bn) * (STAGE_BYTES + (MX_UNITS if mode == MX else 0))

    # Streams of bytes leave the clock alone; products that keep the tensor cores busy do not.
    peak = gpu.tensor_flop_per_clk[activation.element.name] * gpu.tensor_share
    tensor_ns = 2.0 * m * n * k / (peak * gpu.sm_count * gpu.sustained_clock_mhz / 1e3)
    streams = tensor_ns < problem.min_bytes / gpu.dram_read_gb_per_s
    clock_ghz = gpu.max_clock_mhz / 1e3
    if not streams:
        busy, none = np.ones(1), np.zeros(1)
        element_name = activation.element.name
        clock_ghz = float(
            busy_clock_ghz(gpu, element=element_name, tensor_busy=busy, cuda_cores_busy=none)[0]
        )

    # One step of one CTA, clocks of an SM's units.
    tensor_clk = 2.0 * bm * bn * depth / peak
    smem_clk = smem_port_clk(gpu, bn, bm, of.smem_fill_share)  # rows of B are the products'
    promotion_clk = np.zeros(len(table))
    if mode == MX:
        of_warp = MX_UNITS * (bm + bm / 16) + MX_PART_SLOTS * parts + MX_STEP_SLOTS
        loader = MX_LOADER_SLOTS + MX_WORD_SLOTS * (-(-bm // 32) + bn // 32)
        promotion_clk = (bn / 64 * of_warp + loader / SCHEDULERS) / of.promotion_share
        promotion_clk = np.maximum(promotion_clk, 2.0 * MX_UNITS * bm * bn / gpu.fma_per_clk)
    elif promoted:
        promotion_clk = bm * bn / (gpu.fma_per_clk * of.promotion_share)
        if mode == "b1x128":  # a factor for every two values
            promotion_clk = promotion_clk * 1.5
    if promoted and isinstance(activation.element, IntElement):
        units = MX_UNITS if mode == MX else 1
        promotion_clk = promotion_clk + units * bm * bn / gpu.convert_per_clk
    # Promotion beside products hides little of either, as measured (``HopperBlockParameters``).
    shorter = np.minimum(tensor_clk, promotion_clk)
    arithmetic_clk = np.maximum(tensor_clk, promotion_clk) + of.serial_share * shorter
    unit_clk = overlap(arithmetic_clk, smem_clk, exponent=of.overlap_exponent)
    chain_clk = np.maximum(tensor_clk, smem_clk) + of.step_clk + of.handshake_clk
    if promoted:
        chain_clk = chain_clk + of.drain_clk - of.step_clk + promotion_clk
    # A buffer comes round when its load has arrived, and its step has begun and ended.
    latency_ns = load_latency_ns(gpu, np.full(len(table), 1.0), np.ones(len(table), np.bool_))
    ring_clk = of.loaded_latency * latency_ns * clock_ghz + of.held_steps * chain_clk
    chain_clk = np.maximum(chain_clk, ring_clk / stages)

    # Behind the last step: staging, the cluster's sums, stores.
    staged_bytes = 4.0 * bm * bn
    staging_clk = 2 * staged_bytes / gpu.smem_bytes_per_clk + bm * bn * out_bytes / (
        cluster * gpu.l2_bytes_per_clk_per_sm
    )
    reduce_clk = np.where(
        cluster > 1,
        of.cluster_wait_clk
        + 2 * of.cluster_barrier_clk
        + of.peer_latency_clk
        + staged_bytes / of.peer_bytes_per_clk,
        0.0,
    )
    epilogue_clk = of.epilogue_clk + staging_clk + reduce_clk
    first_clk = of.setup_clk + latency_ns * clock_ghz

    # What the busiest SM does, and the CTAs that it runs one after the other.
    sm_unit_clk = busiest * (share * unit_clk + staging_clk)
    turns = busiest / together
    chain_total = turns * (share * chain_clk + epilogue_clk) + first_clk
    l2 = l2_ns(
        gpu,
        bytes_per_sm=busiest * share * stage_bytes,
        bytes_total=ctas * share * stage_bytes,
        clock_ghz=clock_ghz,
    )
    # Neighbours' requests for the same lines are one to the L2; tiles along M follow one another.
    window = np.maximum(NEIGHBOURS * together // cluster, 1)
    lone = neighbours_share(tiles_m, tiles_n, tiles_m, window, bm, bn)
    asked = ctas * share * stage_bytes * lone
    l2 = np.maximum(l2, asked / (of.lone_lines_share * gpu.l2_read_gb_per_s))
    memory_ns = dram_ns(
        gpu,
        read_bytes=dram_read,
        write_bytes=np.full(len(table), dram_write),
        in_flight_bytes=resident * np.minimum(stages, share) * stage_bytes,
    )
    ends_ns = (first_clk + epilogue_clk) / clock_ghz
    units_ns = overlap(sm_unit_clk / clock_ghz, l2, exponent=of.overlap_exponent) + ends_ns
    launch_us = gpu.graph_launch_us + of.device_floor_us
    time_ns = overlap(memory_ns, units_ns, chain_total / clock_ghz, exponent=of.overlap_exponent)
    to_us = share * busiest / (clock_ghz * 1e3)
    terms = {
        "tensor": tensor_clk * to_us,
        "cuda_cores": promotion_clk * to_us,
        "shared_memory": smem_clk * to_us,
        "l2": l2 / 1e3,
        "dram": memory_ns / 1e3,
        "latency": turns * share * chain_clk / (clock_ghz * 1e3),
        "prologue_epilogue": ends_ns / 1e3,
        "launch": np.full(len(table), launch_us),
    }
    return Cost(
        time_us=time_ns / 1e3 + launch_us,
        terms_us=terms,
        dram_read_bytes=dram_read,
        dram_write_bytes=np.full(len(table), dram_write),
        l2_read_bytes=l2_read,
    )
