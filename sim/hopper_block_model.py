"""The cost of the Hopper GEMM with scales in blocks (``tiles/kernels/cuda/gemm_hopper_blocks.cu``).

Every QUANT_K of K an accumulator's product is scaled and added to an fp32 sum on the CUDA cores.
Each scheduler holds one warp of every consumer, so a step along K takes it the instructions of
them all, or the conversions of integers where those are slower, or the products on the tensor
cores.

With one set of accumulators a warpgroup multiplies, waits and promotes in turn.  With more, pieces
of products are in flight while one is promoted, and yet most of the shorter of both shows: the
tensor cores read and write accumulators where promotion does.

Instructions are those of the compiled kernel (sm_90a, NVRTC 13), counted in its loop and its
epilogue.  What products hide of promotion was measured by a stream of both
(``bench/pipe_rates.py``); waits for the ring, drains and the clock are those of
``hopper_gemm_model``, set on that kernel's times.  Times of this kernel (``data/h200/sweeps``,
shapes in view) said which of them to take over; no value was set on them.
"""

import numpy as np
from numpy.typing import NDArray

from sim.clock import clock_ghz
from sim.cost import Cost
from sim.gemm_model import dram_read_bytes
from sim.gpu import Gpu
from sim.hopper_gemm_model import ring_exposed_clk
from sim.memory import dram_ns, l2_ns, load_latency_ns, overlap
from sim.parameters import HOPPER_BLOCK, HOPPER_GEMM, HopperBlockParameters
from sim.traffic import footprint
from tiles.formats import IntElement, Rounding
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_block_rules import SCALES, block_scales, consumer_tile
from tiles.kernels.hopper_rules import STAGE_BYTES
from tiles.problems import Gemm

__all__ = ["hopper_block_cost", "promotion_slots"]

F64 = NDArray[np.float64]

#: Instructions of a warp a stage: barriers, addresses, loop; and a unit: product, wait, scales.
STAGE_SLOTS = 44.0
UNIT_SLOTS = 11.0
#: To look beforehand whether the next stage is full, and whether its factors are made as well.
LOOK_SLOTS, RUN_LOOK_SLOTS = 4.0, 14.0
#: A unit's where accumulators run on: its factors are loaded, not multiplied.
RUN_UNIT_SLOTS = 8.0
#: And a stage of the warp that makes these factors, beside the consumers of one scheduler.
FACTOR_SLOTS = 105.0
#: And of every piece but a unit's first: product, wait, the jump over its sums.
PIECE_SLOTS = 8.0
#: Instructions a code in an epilogue to nearest and stochastically, and beside them for 64 rows.
CODE_SLOTS, STOCHASTIC_SLOTS = 12.0, 24.0
CODED_ROWS_SLOTS = 250.0


def promotion_slots(problem: Gemm, table: ConfigTable) -> F64:
    """Instructions of one consumer warp for a stage of 128 of K, by configuration."""
    scales = block_scales(problem.recipe.activation, problem.recipe.weight)
    assert scales is not None
    rows, quant_k = SCALES[scales]
    units = STAGE_BYTES / quant_k
    m, n = consumer_tile(table)
    accumulators = m * n / 128
    run, sets = table["run"], table["sets"]
    conversion = float(isinstance(problem.recipe.activation.element, IntElement))
    # Instead of conversions a move for every run, and a multiply-add for the runs of all sets.
    starts = 1.0 / run + 1.0 / (run * sets)
    each = 1.0 + np.where(run > 1, starts, conversion)
    loads = np.zeros(len(table))
    if rows == 1:
        each = each + 1.0  # the product of two scales
        loads = n / 8 + 2 * m / 64
    pieces = np.where(run > 1, RUN_UNIT_SLOTS, UNIT_SLOTS) + (table["parts"] - 1) * PIECE_SLOTS
    looks = np.where(run > 1, RUN_LOOK_SLOTS, LOOK_SLOTS) * (sets * table["parts"] > 1)
    slots: F64 = STAGE_SLOTS + looks + units * (pieces + accumulators * each + loads)
    return slots


def hopper_block_cost(
    problem: Gemm, table: ConfigTable, gpu: Gpu, parameters: HopperBlockParameters = HOPPER_BLOCK
) -> Cost:
    """Price every configuration of a table with the columns of ``HopperBlockGemmConfig``."""
    of = parameters
    bm, bn, stages, cluster = (table[f] for f in ("block_m", "block_n", "stages", "cluster"))
    m, n, k = problem.shape
    activation, weight, output = problem.recipe.activation, problem.recipe.weight, problem.output
    scales = block_scales(activation, weight)
    assert scales is not None
    units = STAGE_BYTES // SCALES[scales][1]
    consumers = table["consumers"]
    fastest_ghz = gpu.max_clock_mhz / 1e3
    steps = -(-k // STAGE_BYTES)

    # Tiles and traffic, by clusters where CTAs share B.
    tiles_m, tiles_n = -(-m // bm), -(-n // bn)
    rows_m = -(-tiles_m // cluster)
    slots = np.maximum(gpu.sm_count // cluster, 1)
    rounds = -(-rows_m * tiles_n // slots)
    at_work = np.minimum(slots, rows_m * tiles_n) * cluster  # CTAs that ask the L2 at a time
    # Scales are held as fp32, whatever format they have.
    scale_bytes = [
        fmt.scale_count(side, k) * (32 - fmt.scaling.stored.bits) // 8 if fmt.scaling else 0
        for fmt, side in ((activation, m), (weight, n))
    ]
    a_tile = (activation.storage_bytes(m, k) + scale_bytes[0]) / rows_m
    b_tile = (weight.storage_bytes(n, k) + scale_bytes[1]) / tiles_n
    seen = footprint(rows_m, tiles_n, table["group_m"], slots + 0 * bm)
    l2_read = rows_m * tiles_n * (a_tile + b_tile)
    dram_read = dram_read_bytes(
        gpu, rows_m, tiles_n, table["group_m"], a_tile, b_tile, rounds, seen
    )
    dram_write = float(output.storage_bytes(m, n))

    # One step of 128 of K of one CTA, clocks.
    element = "int8" if isinstance(activation.element, IntElement) else activation.element.name
    rate = gpu.tensor_flop_per_clk[element] * gpu.tensor_share
    tensor_clk = 2.0 * bm * bn * STAGE_BYTES / rate
    of_warp = promotion_slots(problem, table)
    converts = (table["run"] == 1) & isinstance(activation.element, IntElement)
    promotion_clk = consumers * of_warp + np.where(table["run"] > 1, FACTOR_SLOTS, 0.0)
    promotion_clk = promotion_clk / of.issue_share
    values = bm * bn * units
    promotion_clk = np.maximum(promotion_clk, converts * values / gpu.convert_per_clk)
    # Arithmetic beyond issue: multiplies and multiply-adds, should their pipe be the narrow one.
    promotion_clk = np.maximum(promotion_clk, bm * bn * units / gpu.fma_per_clk)
    # Products in flight beside a promotion hide a part of it; one piece's wait for each other.
    shorter = np.minimum(tensor_clk, promotion_clk)
    serial = np.where(table["sets"] * table["parts"] > 1, of.serial_share, 1.0)
    step_clk = np.maximum(tensor_clk, promotion_clk) + serial * shorter
    step_clk = step_clk + of.handshake_clk + units * of.drain_clk
    step_clk = step_clk + HOPPER_GEMM.cluster_step_clk * (cluster > 1)
    stage_bytes = (bm + bn / cluster) * STAGE_BYTES
    # Every product of 64 rows reads both its operands.
    rows, columns = consumer_tile(table)
    width = np.where(rows > 64, columns, columns / table["parts"])
    smem_clk = bm * bn / (64 * width) * (64 + width) * STAGE_BYTES / gpu.smem_bytes_per_clk
    units_clk = overlap(step_clk, smem_clk, exponent=of.overlap_exponent)
    # The power limit is the board's: who has no tile leaves the others a higher clock.
    working = rows_m * tiles_n / (rounds * slots)
    clock = clock_ghz(
        gpu,
        element=element,
        tensor_busy=tensor_clk / units_clk * working,
        cuda_cores_busy=promotion_clk / units_clk * working,
        dram_bytes_per_clk=(dram_read + dram_write) / (rounds * steps * units_clk),
    )
    l2_step_clk = (
        l2_ns(
            gpu,
            bytes_per_sm=stage_bytes,
            bytes_total=stage_bytes * at_work,
            clock_ghz=fastest_ghz,
        )
        * clock
    )
    busy_clk = overlap(units_clk, l2_step_clk, exponent=of.overlap_exponent)
    exposed_clk = ring_exposed_clk(gpu, busy_clk, stages, cluster, clock)
    latency_ns = load_latency_ns(gpu, np.ones(1), np.ones(1, np.bool_))[0]
    main_clk = steps * (busy_clk + exposed_clk)

    # The epilogue: nothing but the next tile's loads runs beside it.
    row_groups = rows / 64
    if output.scaling is None:
        epilogue_clk = of.epilogue_clk + row_groups * of.staging_clk * (
            columns * output.element.bits / 8 / 128
        )
    else:
        stochastic = output.rounding is Rounding.STOCHASTIC
        each = STOCHASTIC_SLOTS if stochastic else CODE_SLOTS
        coded = row_groups * (CODED_ROWS_SLOTS + columns / 2 * each)
        epilogue_clk = of.epilogue_clk + consumers * coded / of.issue_share
        epilogue_clk = epilogue_clk + row_groups * of.staging_clk
    loaded = np.minimum(stages, steps) * busy_clk * 0.5
    tile_clk = main_clk + np.maximum(epilogue_clk - loaded, of.epilogue_exposed * epilogue_clk)
    if output.scaling is not None:
        tile_clk = main_clk + epilogue_clk  # instructions, not waits
    first_clk = of.setup_clk + latency_ns * clock
    memory_ns = dram_ns(
        gpu,
        read_bytes=dram_read,
        write_bytes=np.full(len(table), dram_write),
        in_flight_bytes=stages * stage_bytes * at_work,
    )
    launch_us = gpu.graph_launch_us + of.device_floor_us
    steps_us = rounds * steps / (clock * 1e3)
    terms = {
        "tensor": tensor_clk * steps_us,
        "cuda_cores": promotion_clk * steps_us,
        "shared_memory": smem_clk * steps_us,
        "l2": l2_step_clk * steps_us,
        "dram": memory_ns / 1e3,
        "latency": exposed_clk * steps_us,
        "prologue_epilogue": (rounds * (tile_clk - main_clk) + first_clk) / (clock * 1e3),
        "launch": np.full(len(table), launch_us),
    }
    compute_ns = (rounds * tile_clk + first_clk) / clock
    return Cost(
        time_us=overlap(compute_ns, memory_ns, exponent=of.overlap_exponent) / 1e3 + launch_us,
        terms_us=terms,
        dram_read_bytes=dram_read,
        dram_write_bytes=np.full(len(table), dram_write),
        l2_read_bytes=l2_read,
    )
