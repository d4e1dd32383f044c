"""The cost of Hopper's weight-only product for many rows (``gemm_hopper_weight_prefill.cu``).

The kernel is persistent, as ``hopper_gemm``: every CTA takes the same number of tiles but for the
last, and a tile costs its panels along K and its epilogue.  Decoding runs beside the products of
the unit before, so a panel takes the slowest of the tensor cores, the issue slots, shared memory
and the L2, or a warpgroup's own round of a product and its instructions, which few rows do not
hide.  Instructions are those of the loop that NVRTC makes for sm_90a; constants are those of
``hopper_gemm`` but for three, which were set on timings of an H200.
"""

import numpy as np
from numpy.typing import NDArray

from sim.clock import clock_ghz
from sim.cost import Cost
from sim.gemm_model import dram_read_bytes
from sim.gpu import Gpu
from sim.hopper_gemm_model import ring_exposed_clk
from sim.hopper_weight_only_model import DECODE_INSTRUCTIONS
from sim.memory import dram_ns, l2_ns, load_latency_ns, overlap
from sim.parameters import HOPPER_WEIGHT_PREFILL, HopperWeightPrefillParameters
from sim.pipes import SCHEDULERS
from sim.traffic import footprint
from tiles.formats import element
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_weight_only_rules import panels_of, stage_bytes
from tiles.kernels.hopper_weight_prefill_rules import CONSUMERS
from tiles.kernels.weight_only_resources import PANEL_BYTES, group_columns, halves
from tiles.problems import Gemm

__all__ = ["hopper_weight_prefill_cost", "panel_instructions"]

F64 = NDArray[np.float64]
#: Of a warp: for 16 rows of a panel beside decoding, and for the panel.
_BLOCK_INSTRUCTIONS, _PANEL_INSTRUCTIONS = 32, 48


def panel_instructions(problem: Gemm, table: ConfigTable) -> F64:
    """Instructions of a warp that multiplies, for a panel."""
    weight = problem.recipe.weight
    folded = 2 * halves(weight) if group_columns(weight) else 0  # four bytes times their scale
    words = 8  # of a lane, in 16 rows
    of_block = words * (DECODE_INSTRUCTIONS[weight.element.name] + folded) + _BLOCK_INSTRUCTIONS
    blocks = table["block_n"] / CONSUMERS / 64
    found: F64 = blocks * of_block + _PANEL_INSTRUCTIONS
    return found


def hopper_weight_prefill_cost(
    problem: Gemm,
    table: ConfigTable,
    gpu: Gpu,
    parameters: HopperWeightPrefillParameters = HOPPER_WEIGHT_PREFILL,
) -> Cost:
    """Price every configuration of a table with the columns of ``HopperWeightPrefillConfig``."""
    of = parameters
    bm, bn, stages, cluster = (table[f] for f in ("block_m", "block_n", "stages", "cluster"))
    m, n, k = problem.shape
    activation, weight = problem.recipe.activation, problem.recipe.weight
    out_bytes = element(problem.out).bits // 8
    fastest_ghz = gpu.max_clock_mhz / 1e3
    panels, panel = panels_of(problem), PANEL_BYTES * halves(weight)

    # Tiles and traffic, by clusters, whose CTAs share X.
    rows, tiles_n = -(-m // bm), -(-n // bn)
    columns = -(-tiles_n // cluster)
    slots = np.maximum(gpu.sm_count // cluster, 1)
    rounds = -(-rows * columns // slots)
    at_work = np.minimum(slots, rows * columns) * cluster  # CTAs that ask the L2 at a time
    x_tile = activation.storage_bytes(m, k) / rows
    w_tile = weight.storage_bytes(n, k) / columns
    seen = footprint(rows, columns, table["group_m"], slots + 0 * bm)
    l2_read = rows * columns * (x_tile + w_tile)
    dram_read = dram_read_bytes(gpu, rows, columns, table["group_m"], x_tile, w_tile, rounds, seen)
    dram_write = np.full(len(table), float(m * n * out_bytes))

    # One panel of one CTA, clocks.
    rate = gpu.tensor_flop_per_clk[activation.element.name] * gpu.tensor_share
    tensor_clk = 2.0 * bm * bn * panel / rate
    instructions = panel_instructions(problem, table)
    issue_clk = CONSUMERS * 4 * instructions / SCHEDULERS
    # A warpgroup's own round: a product, and its instructions one after another.
    round_clk = tensor_clk / CONSUMERS + of.instruction_clk * instructions
    step_clk = tensor_clk + of.handshake_clk + of.cluster_step_clk * (cluster > 1)
    smem_stage = stage_bytes(problem, table)
    x_bytes = bm * panel * 2.0
    smem_clk = (bn / 64 * x_bytes + bn * PANEL_BYTES + smem_stage) / gpu.smem_bytes_per_clk
    asked = smem_stage - x_bytes * (1 - 1 / cluster)
    l2_step_ns = l2_ns(gpu, bytes_per_sm=asked, bytes_total=asked * at_work, clock_ghz=fastest_ghz)
    units_clk = overlap(step_clk, smem_clk, issue_clk, round_clk, exponent=of.overlap_exponent)
    working = rows * columns / (rounds * slots)
    clock = clock_ghz(
        gpu,
        element=activation.element.name,
        tensor_busy=tensor_clk / units_clk * working,
        cuda_cores_busy=issue_clk / units_clk * working,
        dram_bytes_per_clk=(dram_read + dram_write) / (rounds * panels * units_clk),
    )
    l2_step_clk = l2_step_ns * clock
    busy_clk = overlap(units_clk, l2_step_clk, exponent=of.overlap_exponent)
    exposed_clk = ring_exposed_clk(gpu, busy_clk, stages / halves(weight), cluster, clock, of)
    latency_ns = of.loaded_latency * load_latency_ns(gpu, np.ones(1), np.ones(1, np.bool_))[0]
    main_clk = panels * (busy_clk + exposed_clk)

    # A warpgroup stages 64 columns of C at a time; fp32 goes to memory as it is.
    chunks = bn / CONSUMERS / 64 * -(-bm // 64) * (out_bytes / 2)
    chunk_clk = of.staging_clk + of.store_clk * (table["store_buffers"] == 1)
    slower = clock / fastest_ghz
    tile_clk = main_clk + (of.epilogue_clk + chunks * chunk_clk) * slower
    first_clk = of.setup_clk * slower + latency_ns * clock
    compute_ns = (rounds * tile_clk + first_clk) / clock
    memory_ns = dram_ns(
        gpu,
        read_bytes=dram_read,
        write_bytes=dram_write,
        in_flight_bytes=stages / halves(weight) * asked * at_work,
    )
    launch_us = gpu.graph_launch_us + of.device_floor_us
    to_us = rounds * panels / (clock * 1e3)
    terms = {
        "tensor": tensor_clk * to_us,
        "cuda_cores": issue_clk * to_us,
        "shared_memory": smem_clk * to_us,
        "l2": l2_step_clk * to_us,
        "dram": memory_ns / 1e3,
        "latency": exposed_clk * to_us,
        "prologue_epilogue": (rounds * (tile_clk - main_clk) + first_clk) / (clock * 1e3),
        "launch": np.full(len(table), launch_us),
    }
    return Cost(
        time_us=overlap(compute_ns, memory_ns, exponent=of.overlap_exponent) / 1e3 + launch_us,
        terms_us=terms,
        dram_read_bytes=dram_read,
        dram_write_bytes=dram_write,
        l2_read_bytes=l2_read,
    )
