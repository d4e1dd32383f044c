"""The cost of the Hopper GEMM in CUDA C++ (``tiles/kernels/cuda/gemm_hopper.cu``).

The kernel is persistent: every CTA takes the same number of tiles but for the last.  A tile costs
its steps along K and its epilogue; with a tile for each warpgroup (``pingpong``) the epilogue of
one lies under the steps of the other.  Where scales change along K both warpgroups wait for one
stage, share the tensor cores and promote together, so a step is the sum of products, a drain and
what shows of conversions and multiply-adds.  Most timings behind that are of a source with one set
of accumulators; two sets took between 0.95 and 1.03 of its time in one run
(``evidence/h200/kernels/promoted-sets.json``).  Warpgroups that chain products (``chained``) take
turns at the tensor cores (:func:`chained_step_clk`), and the next tile's first product runs under
an epilogue.  CTAs of a cluster share the larger of their tiles, along M that of B, along N that of
A; what neighbours in the raster ask for together the L2 brings once.
"""

import numpy as np
from numpy.typing import NDArray

from sim.clock import clock_ghz
from sim.cost import Cost
from sim.gemm_model import dram_read_bytes
from sim.gpu import Gpu
from sim.memory import dram_ns, l2_ns, load_latency_ns, overlap
from sim.parameters import HOPPER_GEMM, HopperGemmParameters, HopperWeightPrefillParameters
from sim.traffic import footprint, neighbours_share
from tiles.formats import IntElement, element
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_gemm import CONSUMERS
from tiles.kernels.hopper_rules import STAGE_BYTES
from tiles.problems import Gemm

__all__ = ["chained_step_clk", "hopper_gemm_cost", "ring_exposed_clk", "smem_port_clk"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Multiprocessors whose requests for a line become one: those of a graphics processing cluster.
NEIGHBOURS = 16


def ring_exposed_clk(
    gpu: Gpu,
    busy_clk: F64,
    stages: I64 | F64,
    cluster: I64,
    clock: F64,
    parameters: HopperGemmParameters | HopperWeightPrefillParameters = HOPPER_GEMM,
) -> F64:
    """Clocks a step that the products wait for a ring of ``stages`` buffers, elementwise.

    A buffer comes round when its load has arrived, the step that reads it has begun, and the
    products of that step have ended: the load's latency, the barriers of the ring and
    ``held_steps`` steps later.  CTAs advance together, so everybody waits for the one whose lines
    come from DRAM; CTAs of a cluster wait for each other's buffers as well.
    """
    of = parameters
    alone = np.ones(1)
    latency_ns = of.loaded_latency * load_latency_ns(gpu, alone, alone > 0)[0]
    waits_ns = (of.ring_clk + of.cluster_clk * (cluster > 1)) / (gpu.max_clock_mhz / 1e3)
    period_clk = ((latency_ns + waits_ns) * clock + of.held_steps * busy_clk) / stages
    exposed: F64 = np.maximum(0.0, period_clk - busy_clk)
    return exposed


def smem_port_clk(gpu: Gpu, block_m: I64, block_n: I64, fill_share: float) -> F64:
    """Clocks of the shared-memory port for a step: products read, the copy engine writes.

    Every product of 64 rows reads both its operands anew.

    Args:
        fill_share: what a byte that is written takes of the port, where one that is read takes 1.
    """
    rows = block_m / 64 * (64 + block_n) + fill_share * (block_m + block_n)
    clk: F64 = rows * STAGE_BYTES / gpu.smem_bytes_per_clk
    return clk


def chained_step_clk(
    products_clk: F64,
    promotion_clk: F64,
    parameters: HopperGemmParameters = HOPPER_GEMM,
    *,
    narrow_floats: bool = False,
) -> F64:
    """Clocks of a step whose two warpgroups take turns at the tensor cores, elementwise.

    A warpgroup begins a product when the other has begun its own, waits for it, and promotes it
    while the other's runs: what lasts longer is the tensor cores' work on both, or one warpgroup's
    own round of a product, a promotion, and what lies between them.

    Args:
        products_clk: both warpgroups' products with what else a step costs.
        promotion_clk: of both warpgroups' sums, at the rate of the slowest unit.
        narrow_floats: products of 8-bit floats.
    """
    of = parameters
    round_clk = products_clk / CONSUMERS + of.promotion_stretch * promotion_clk + of.turn_clk
    round_clk = round_clk + of.float_turn_clk * narrow_floats
    clk: F64 = np.maximum(products_clk, round_clk)
    return clk


def hopper_gemm_cost(
    problem: Gemm,
    table: ConfigTable,
    gpu: Gpu,
    parameters: HopperGemmParameters = HOPPER_GEMM,
    *,
    promotion_instructions: float = 1.0,
) -> Cost:
    """Price every configuration of a table with the columns of ``HopperGemmConfig``.

    Args:
        promotion_instructions: of an accumulator in FP8, where scales change along K.
    """
    of = parameters
    bm, bn, stages = table["block_m"], table["block_n"], table["stages"]
    cluster, pingpong, chained = table["cluster"], table["pingpong"], table["chained"]
    m, n, k = problem.shape
    activation, weight = problem.recipe.activation, problem.recipe.weight
    promoted = problem.recipe.blockwise
    out_bytes = element(problem.out).bits // 8
    fastest_ghz = gpu.max_clock_mhz / 1e3
    depth = STAGE_BYTES * 8 // activation.element.bits
    steps = -(-k // depth)

    # Tiles and traffic, by clusters.
    down, across = np.where(bm > bn, 1, cluster), np.where(bm > bn, cluster, 1)
    rows_m, columns = -(-m // (bm * down)), -(-n // (bn * across))
    slots = np.maximum(gpu.sm_count // cluster, 1)
    rounds = -(-rows_m * columns // slots)
    at_work = np.minimum(slots, rows_m * columns) * cluster  # CTAs that ask the L2 at a time
    a_tile = activation.storage_bytes(m, k) / rows_m
    b_tile = weight.storage_bytes(n, k) / columns
    seen = footprint(rows_m, columns, table["group_m"], slots + 0 * bm)
    l2_read = rows_m * columns * (a_tile + b_tile)
    dram_read = dram_read_bytes(
        gpu, rows_m, columns, table["group_m"], a_tile, b_tile, rounds, seen
    )
    dram_write = float(m * n * out_bytes)

    # One step along K of one CTA, clocks.
    rate = gpu.tensor_flop_per_clk[activation.element.name] * gpu.tensor_share
    tensor_clk = 2.0 * bm * bn * depth / rate
    smem_clk = smem_port_clk(gpu, bm, bn, of.smem_fill_share)
    products_clk = tensor_clk + of.handshake_clk + of.cluster_step_clk * (cluster > 1)
    products_clk = overlap(products_clk, smem_clk, exponent=of.overlap_exponent)
    units_clk, promotion_clk = products_clk, np.zeros(len(table))
    if promoted:
        integer = isinstance(activation.element, IntElement)
        values, conversion = bm * bn, integer / gpu.convert_per_clk
        multiply_add = promotion_instructions / (gpu.fma_per_clk * of.promotion_share)
        promotion_clk = values * max(multiply_add, conversion)  # pipes of their own
        in_chains = chained_step_clk(products_clk, promotion_clk, of, narrow_floats=not integer)
        # Elsewhere a warp converts all sums before it adds the first one.
        shown_clk = of.shown_share * values * (multiply_add + conversion)
        in_turn = products_clk + shown_clk + of.drain_clk
        units_clk = np.where(chained, in_chains, in_turn)
    stage_bytes = (bm / across + bn / down) * STAGE_BYTES
    l2_step_ns = l2_ns(
        gpu,
        bytes_per_sm=stage_bytes,
        bytes_total=stage_bytes * at_work,
        clock_ghz=fastest_ghz,
    )
    # Neighbours' requests for the same lines are one to the L2.
    window = np.maximum(NEIGHBOURS // cluster, 1)
    lone = neighbours_share(rows_m, columns, table["group_m"], window, bm * down, bn * across)
    lone_ns = stage_bytes * at_work * lone / (of.lone_lines_share * gpu.l2_read_gb_per_s)
    l2_step_ns = np.maximum(l2_step_ns, lone_ns)
    # The power limit is the board's: who has no tile leaves the others a higher clock.
    working = rows_m * columns / (rounds * slots)
    clock = clock_ghz(
        gpu,
        element=activation.element.name,
        tensor_busy=tensor_clk / units_clk * working,
        cuda_cores_busy=promotion_clk / units_clk * working,
        dram_bytes_per_clk=(dram_read + dram_write) / (rounds * steps * units_clk),
    )
    l2_step_clk = l2_step_ns * clock
    busy_clk = overlap(units_clk, l2_step_clk, exponent=of.overlap_exponent)
    exposed_clk = ring_exposed_clk(gpu, busy_clk, stages, cluster, clock, of)
    latency_ns = of.loaded_latency * load_latency_ns(gpu, np.ones(1), np.ones(1, np.bool_))[0]
    main_clk = steps * (busy_clk + exposed_clk)

    # Whoever stores does not multiply; with one staging buffer a store waits for the one before.
    chunks = np.where(pingpong, bm, bm // CONSUMERS) / 64 * -(-bn * out_bytes // 128)
    chunk_clk = of.staging_clk + of.store_clk * (table["store_buffers"] == 1)
    slower = clock / fastest_ghz  # where nothing multiplies, the clock is the highest
    epilogue_clk = (of.epilogue_clk + chunks * chunk_clk) * slower
    # The next tile's first product runs under a chained one's, not its promotion.
    under_first = np.minimum(epilogue_clk, (busy_clk + exposed_clk) / CONSUMERS)
    epilogue_clk = epilogue_clk - np.where(chained, under_first, 0.0)
    alone = main_clk + epilogue_clk
    tile_clk = np.where(pingpong, np.maximum(main_clk, alone / 2), alone)
    first_clk = of.setup_clk * slower + latency_ns * clock
    total_clk = rounds * tile_clk + first_clk + np.where(pingpong, epilogue_clk, 0.0)
    compute_ns = total_clk / clock
    memory_ns = dram_ns(
        gpu,
        read_bytes=dram_read,
        write_bytes=np.full(len(table), dram_write),
        in_flight_bytes=stages * stage_bytes * at_work,
    )
    launch_us = gpu.graph_launch_us + of.device_floor_us
    tiles_clk = rounds * steps / (clock * 1e3)
    terms = {
        "tensor": tensor_clk * tiles_clk,
        "cuda_cores": promotion_clk * tiles_clk,
        "shared_memory": smem_clk * tiles_clk,
        "l2": l2_step_clk * tiles_clk,
        "dram": memory_ns / 1e3,
        "latency": exposed_clk * tiles_clk,
        "prologue_epilogue": (rounds * (tile_clk - main_clk) + first_clk) / (clock * 1e3),
        "launch": np.full(len(table), launch_us),
    }
    return Cost(
        time_us=overlap(compute_ns, memory_ns, exponent=of.overlap_exponent) / 1e3 + launch_us,
        terms_us=terms,
        dram_read_bytes=dram_read,
        dram_write_bytes=np.full(len(table), dram_write),
        l2_read_bytes=l2_read,
    )
