"""The cost of a scaled GEMM: terms per K-iteration, per wave, and together.

All terms are evaluated for every configuration of a table at once.  Clocks turn into time at the
clock that the power limit leaves (:mod:`sim.clock`), the ends of a tile at the highest.  Rows that
were compiled take the compiler's registers, shared memory and spills instead of the estimates.
What is left out: drift between CTAs, L2 partitions, the power that the data draw.
"""

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.distinct import Distinct, distinct_rows
from sim.gemm_schedule import gemm_schedule
from sim.gemm_wave import Iteration, Loop, lone_clk, price_wave
from sim.gpu import Gpu
from sim.memory import (
    l2_ns,
    load_latency_ns,
    segment_share,
)
from sim.occupancy import BASE_REGISTERS, ctas_per_sm, gemm_registers, spill_clk
from sim.parameters import GEMM, GemmParameters
from sim.pipes import (
    ISSUE_LANES,
    decode_clk,
    has_warpgroups,
    issue_clk,
    mma_clk,
    promotion_clk,
    smem_clk,
    uses_warpgroups,
)
from sim.traffic import Footprint, footprint, miss_share
from sim.waves import waves
from tiles.formats import element
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.decoded_resources import native_smem_bytes
from tiles.kernels.gemm_smem import smem_bytes
from tiles.problems import Gemm

__all__ = ["dram_read_bytes", "gemm_cost", "padded_rows"]

#: Bytes of a tile that a clock of an L2 slice serves where they are all copies of one line.
SAME_LINE_BYTES = 1024

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


def gemm_cost(
    problem: Gemm,
    path: NumericPath,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    *,
    most_per_sm: I64 | None = None,
    block_scaled: str = "",
    parameters: GemmParameters = GEMM,
) -> Cost:
    """Price every configuration of a table with the columns of ``GemmConfig``.

    Args:
        most_per_sm: CTAs that a launch puts on a multiprocessor at most; default: what fits.
        block_scaled: the element at whose rate tensor cores multiply codes with their block scales,
            so that nothing is promoted; default: scales are applied to partial sums.
    """
    # What depends on these columns alone is computed once for all rows that agree in them.
    few = Distinct.of(table, "block_m", "block_n", "block_k", "num_warps", "tma", "persistent")
    tile = few.table
    bm, bn, bk = tile["block_m"], tile["block_n"], tile["block_k"]
    warps, stages = tile["num_warps"], np.maximum(table["num_stages"], 1)
    tma, persistent = tile["tma"], table["persistent"]
    m, n, k = problem.shape
    activation, weight = problem.recipe.activation, problem.recipe.weight
    emulated = path is NumericPath.EMULATED
    multiplied = block_scaled or ("fp16" if emulated else activation.element.name)
    bits, out_bits = activation.element.bits, element(problem.out).bits
    if block_scaled:  # codes of two widths lie in shared memory as the wider one
        bits = max(bits, weight.element.bits)
    promoted = problem.recipe.blockwise and not block_scaled
    clock_ghz = gpu.max_clock_mhz / 1e3  # the power limit is a wave's matter

    # Occupancy and waves.
    warpgroups = uses_warpgroups(gpu, bm, warps, element=multiplied)
    threads = warps * gpu.warp_threads
    loaded = (bm + bn) * bk * bits // 8
    registers = gemm_registers(
        bm,
        bn,
        threads,
        promoted=promoted,
        fragments=~warpgroups | emulated,
        addressed_bytes=np.where(tma, 0, loaded),
    )
    occupancy = ctas_per_sm(
        gpu,
        registers=compiled.registers(few.spread(registers + BASE_REGISTERS)),
        smem_bytes=compiled.smem(
            native_smem_bytes(problem, table) if block_scaled else smem_bytes(problem, table)
        ),
        warps=table["num_warps"],
    )
    occupancy = np.where(persistent, 1, occupancy)
    if most_per_sm is not None:
        occupancy = np.minimum(occupancy, most_per_sm)
    tiles_m, tiles_n = few.spread(-(-m // bm)), few.spread(-(-n // bn))
    # Waves and traffic depend on these alone.
    rows, raster = distinct_rows(tiles_m, tiles_n, table["group_m"], occupancy)
    tiles_m, tiles_n, group_m = tiles_m[rows], tiles_n[rows], table["group_m"][rows]
    tiles = tiles_m * tiles_n
    spread = waves(tiles, occupancy[rows], gpu.sm_count)

    # Traffic.  A tile's mean share of the matrix stands for it, so that ragged edges count once.
    a_tile = activation.storage_bytes(m, k) / tiles_m
    b_tile = weight.storage_bytes(n, k) / tiles_n
    seen = footprint(tiles_m, tiles_n, group_m, spread.capacity)
    once = tiles_m * a_tile + tiles_n * b_tile
    l2_read = tiles * (a_tile + b_tile)
    dram_read = dram_read_bytes(gpu, tiles_m, tiles_n, group_m, a_tile, b_tile, spread.count, seen)
    dram_write = float(m * n * out_bits // 8)
    full_bytes = seen.full_rows * a_tile + seen.full_cols * b_tile
    tail_bytes = seen.tail_rows * a_tile + seen.tail_cols * b_tile
    # What is new in the partial wave comes from DRAM, and of the rest a share like everywhere.
    tail_new = seen.tail_new_rows * a_tile + seen.tail_new_cols * b_tile
    again = full_bytes + tail_bytes - once
    again_share = (dram_read - once) / np.maximum(again, 1.0)
    tail_read = tail_new + (tail_bytes - tail_new) * again_share
    tile_bytes = a_tile + b_tile
    spread = spread.take(raster)
    tiles, tile_bytes, l2_read, dram_read, full_bytes, tail_bytes, tail_read = (
        column[raster]
        for column in (tiles, tile_bytes, l2_read, dram_read, full_bytes, tail_bytes, tail_read)
    )

    # One K-iteration of one CTA.
    steps = np.ceil(k / bk)
    iterations = few.spread(steps)
    # CTAs advance together along K, so that one of a wave that waits for DRAM holds up the others.
    first_ns = load_latency_ns(gpu, np.ones(len(tile)), tma)
    latency_ns = parameters.loaded_latency * first_ns
    latency_ns += loaded / (gpu.l2_bytes_per_clk_per_sm * clock_ghz)  # the last byte of a stage
    # A loop that waits for its product asks for the next loads only then.
    schedule = gemm_schedule(
        problem,
        tile,
        warpgroups=warpgroups,
        emulated=emulated,
        promoted=promoted,
        asynchronous=has_warpgroups(gpu),
        copied_bytes=loaded,
        step_bits=element(multiplied).bits,
        parameters=parameters,
    )
    latency_ns += (1.0 - schedule.held) * schedule.wait_clk / clock_ghz
    row_bytes = bk * (bits / 8)
    share = segment_share(row_bytes, parameters.request_bytes)
    requested = few.spread(1.0 / (share * steps))
    l2_bytes = tile_bytes * requested
    slice_bytes = l2_bytes
    # Rows beyond the matrix that ordinary loads ask for are all its last one, in one slice.
    if (over := ~tma * (padded_rows(m, bm) + padded_rows(n, bn))).any():
        slice_bytes = slice_bytes + few.spread(
            over * row_bytes * (gpu.l2_read_gb_per_s / clock_ghz / SAME_LINE_BYTES)
        )
    loop = Loop(
        tensor_clk=mma_clk(gpu, bm, bn, bk, warps, element=multiplied, warpgroups=warpgroups),
        promotion_clk=promoted
        * parameters.promotion_share
        * promotion_clk(gpu, bm, bn, bk, activation, weight)
        + parameters.decode_share
        * decode_clk(
            gpu,
            bm,
            bn,
            bk,
            warps,
            element=activation.element.name,
            emulated=emulated,
            warpgroups=warpgroups,
        ),
        issue_clk=issue_clk(loaded, tma, parameters.copy_instructions),
        wait_clk=schedule.wait_clk,
        chain_clk=schedule.chain_clk,
        loop_clk=parameters.loop_instructions * threads / ISSUE_LANES,
        in_line=~warpgroups & has_warpgroups(gpu),
        serial=promoted or emulated,
    )
    unit_clk, alone_clk = lone_clk(loop)
    spilled_clk = spill_clk(
        gpu,
        compiled.live_registers(
            few.spread(registers + schedule.state_registers), gpu.registers_per_thread
        ),
        few.spread(threads),
        parameters.spill_bytes_per_clk,
    )
    iteration = Iteration(
        element=multiplied,
        tensor_clk=few.spread(loop.tensor_clk),
        promotion_clk=few.spread(loop.promotion_clk),
        unit_clk=few.spread(unit_clk) + spilled_clk,
        alone_clk=few.spread(alone_clk) + spilled_clk,
        serial=loop.serial,
        smem_clk=few.spread(
            smem_clk(
                gpu,
                bm,
                bn,
                bk,
                warps,
                bits=bits,
                emulated=emulated,
                warpgroups=warpgroups,
                fill_share=parameters.smem_fill_share,
            )
        ),
        l2_bytes=l2_bytes,
        slice_bytes=slice_bytes,
        iterations=iterations,
        stages=stages.astype(np.float64),
        held=schedule.held,
    )
    prologue_ns = few.spread(first_ns + parameters.setup_clk / clock_ghz)
    epilogue_ns = few.spread(
        parameters.epilogue_share
        * _epilogue_clk(gpu, bm, bn, out_bits, scaled=problem.recipe.scaled)
        / clock_ghz
    )

    latency_ns = few.spread(latency_ns)
    # Full waves, all alike, and the partial wave with its own contention.
    in_flight_share = np.maximum(stages - 1, 0.5) / iterations
    whole = np.maximum(spread.full, 1)
    # The power limit sees the launch as a whole: the first wave's clock holds for the last, too.
    begins = spread.full > 0
    full = price_wave(
        gpu,
        iteration,
        per_sm=np.where(begins, occupancy, spread.tail_per_sm),
        ctas=np.where(begins, spread.capacity, spread.tail_ctas),
        footprint_bytes=np.where(begins, full_bytes / whole, tail_bytes),
        read_bytes=np.where(begins, (dram_read - tail_read) / whole, tail_read),
        write_bytes=dram_write * (np.where(begins, spread.capacity, spread.tail_ctas) / tiles),
        in_flight_share=in_flight_share,
        latency_ns=latency_ns,
        parameters=parameters,
    )
    tail = price_wave(
        gpu,
        iteration,
        per_sm=np.maximum(spread.tail_per_sm, 1),
        ctas=spread.tail_ctas,
        footprint_bytes=tail_bytes,
        read_bytes=tail_read,
        write_bytes=dram_write * (spread.tail_ctas / tiles),
        in_flight_share=in_flight_share,
        latency_ns=latency_ns,
        ghz=full.clock_ghz,
        parameters=parameters,
    )
    has_tail = spread.tail_ctas > 0
    # Later waves start while their neighbours still work; a persistent CTA fetches ahead.
    later = np.where(persistent, 0.0, prologue_ns / occupancy)
    later += parameters.tile_clk / clock_ghz / occupancy
    ends = prologue_ns + (spread.count - 1) * later
    ends += spread.full * epilogue_ns + has_tail * epilogue_ns
    main = spread.full * full.time_ns + has_tail * tail.time_ns
    launch_us = gpu.graph_launch_us + parameters.device_floor_us
    per_sm = (spread.full * occupancy + spread.tail_per_sm) * iterations
    clk_us = per_sm / (full.clock_ghz * 1e3)
    terms = {
        "tensor": iteration.tensor_clk * clk_us,
        "cuda_cores": (few.spread(loop.promotion_clk + loop.issue_clk) + spilled_clk) * clk_us,
        "shared_memory": iteration.smem_clk * clk_us,
        "l2": l2_ns(
            gpu,
            bytes_per_sm=iteration.l2_bytes * per_sm,
            bytes_total=iteration.l2_bytes * iterations * tiles,
            clock_ghz=clock_ghz,
        )
        / 1e3,
        "dram": (spread.full * full.dram_ns + has_tail * tail.dram_ns) / 1e3,
        "latency": (spread.full * full.exposed_ns + has_tail * tail.exposed_ns) / 1e3,
        "prologue_epilogue": ends / 1e3,
        "launch": np.full(len(table), launch_us),
    }
    return Cost(
        time_us=(main + ends) / 1e3 + launch_us,
        terms_us=terms,
        dram_read_bytes=dram_read,
        dram_write_bytes=np.full(len(table), dram_write),
        l2_read_bytes=l2_read,
    )


def dram_read_bytes(
    gpu: Gpu,
    tiles_m: I64,
    tiles_n: I64,
    group_m: I64,
    a_tile: F64,
    b_tile: F64,
    wave_count: I64,
    seen: Footprint,
) -> F64:
    """Operands once, and what later waves read again because the L2 has dropped it.

    Within a wave CTAs advance together along K, so a tile row or column is fetched once.  Rows of A
    and the column that a wave boundary cuts come back after one wave, the other columns of B after
    a whole raster group.
    """
    rows = seen.full_rows + seen.tail_rows
    cols = seen.full_cols + seen.tail_cols
    group = np.minimum(group_m, tiles_m)
    again_rows = rows - tiles_m
    again_cols = cols - tiles_n
    cut_cols = np.minimum(again_cols, wave_count - 1)
    wave_bytes = (rows * a_tile + cols * b_tile) / wave_count
    near = np.maximum(wave_bytes, group * a_tile + b_tile)
    far = group * a_tile + tiles_n * b_tile
    near_bytes = again_rows * a_tile + cut_cols * b_tile
    far_bytes = (again_cols - cut_cols) * b_tile
    once = tiles_m * a_tile + tiles_n * b_tile
    read: F64 = (
        once
        + near_bytes * miss_share(near, gpu.l2_bytes)
        + far_bytes * miss_share(far, gpu.l2_bytes)
    )
    return read


def padded_rows(extent: int, block: I64) -> F64:
    """Rows of a tile beyond the matrix, the mean over all tiles."""
    tiles = -(-extent // block)
    rows: F64 = block - extent / tiles
    return rows


def _epilogue_clk(gpu: Gpu, block_m: I64, block_n: I64, out_bits: int, *, scaled: bool) -> F64:
    """Clocks to scale, convert, stage through shared memory and store one tile."""
    tile = block_m * block_n
    instructions = (2.0 if scaled else 0.0) + (0.5 if out_bits == 16 else 0.0)
    stored = tile * (out_bits / 8)
    clk: F64 = (
        tile * instructions / ISSUE_LANES
        + 2 * stored / gpu.smem_bytes_per_clk
        + stored / gpu.l2_bytes_per_clk_per_sm
    )
    return clk
