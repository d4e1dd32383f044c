"""The cost of int8 products with outliers apart: that of a longer product, and of a second loop.

A first model; no measurement stands behind it yet.  What is added to the product of the codes is
priced as more of K: a kept column of 16 bits takes the bytes and, at half the rate, the clocks of
two int8 columns; a fallback block those of a block.  The second loop fills its pipeline anew.

How many outliers a layer has is not known ahead: 0.1 % of the columns, a block share evenly spread
over block rows.  Left out: block rows with more blocks than others, and that weights under a
fallback block come from the L2, not from DRAM (their bytes are not counted twice, their time is).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.gemm_model import gemm_cost
from sim.gpu import Gpu
from sim.memory import load_latency_ns
from sim.occupancy import BASE_REGISTERS, ctas_per_sm, gemm_registers
from sim.parameters import GEMM, OUTLIER, GemmParameters, OutlierParameters
from sim.pipes import uses_warpgroups
from sim.waves import waves
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.gemm_smem import smem_bytes
from tiles.kernels.outlier_gemm import (
    expected_columns,
    fallback_capacity,
    inner_problem,
    inner_table,
    kept_smem_bytes,
)
from tiles.problems import Gemm
from tiles.recipes import OutlierColumns

__all__ = ["outlier_cost"]


def outlier_cost(
    problem: Gemm,
    path: NumericPath,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    of: OutlierParameters = OUTLIER,
    product: GemmParameters = GEMM,
) -> Cost:
    """Price every configuration of a table with the columns of ``OutlierGemmConfig``."""
    inner, plain = inner_problem(problem), inner_table(table)
    columns = isinstance(problem.recipe.outliers, OutlierColumns)
    cost = gemm_cost(inner, path, plain, gpu, compiled, parameters=product)
    added_us = np.zeros(len(table))
    read, l2_read = cost.dram_read_bytes.copy(), cost.l2_read_bytes.copy()
    # Iterations over kept columns are whole, so K grows by what the configuration's depth asks for.
    depths = table["outlier_k"] if columns else np.zeros(len(table), np.int64)
    for depth in sorted(set(depths.tolist())):  # np.unique would load numpy.ma
        rows = np.flatnonzero(depths == depth)
        more = _added_columns(problem, depth)
        longer = replace(inner, k=inner.k + more)
        part = gemm_cost(
            longer, path, plain.take(rows), gpu, compiled.take(rows), parameters=product
        )
        added_us[rows] = np.maximum(part.time_us - cost.time_us[rows], 0.0)
        l2_read[rows] = part.l2_read_bytes
        weights = float(problem.n * more) if columns else 0.0
        read[rows] += float(problem.m * more) + weights
    smem = np.maximum(smem_bytes(inner, plain), kept_smem_bytes(problem, table))
    added_us = of.second_loop_share * (added_us + _refill_us(inner, plain, gpu, compiled, smem))
    return Cost(
        time_us=cost.time_us + added_us,
        terms_us={**cost.terms_us, "outliers": added_us},
        dram_read_bytes=read,
        dram_write_bytes=cost.dram_write_bytes,
        l2_read_bytes=l2_read,
    )


def _added_columns(problem: Gemm, depth: int) -> int:
    """int8 columns of K that what is added takes the time of."""
    if depth:
        return 2 * depth * -(-expected_columns(problem.k) // depth)
    scaling = problem.recipe.activation.scaling
    assert scaling is not None
    block_rows = -(-problem.m // (scaling.rows or problem.m))
    wide = scaling.cols or problem.k
    return max(1, round(fallback_capacity(problem) / block_rows * wide))


def _refill_us(
    inner: Gemm, table: ConfigTable, gpu: Gpu, compiled: Compiled, smem: NDArray[np.int64]
) -> NDArray[np.float64]:
    """First loads of the second loop, waited for once a wave; CTAs of one SM fill each other's."""
    bm, bn, bk, warps = (table[x] for x in ("block_m", "block_n", "block_k", "num_warps"))
    warpgroups = uses_warpgroups(gpu, bm, warps, element=inner.recipe.activation.element.name)
    registers = gemm_registers(
        bm,
        bn,
        warps * gpu.warp_threads,
        promoted=inner.recipe.blockwise,
        fragments=~warpgroups,
        addressed_bytes=np.where(table["tma"], 0, (bm + bn) * bk),
    )
    occupancy = ctas_per_sm(
        gpu,
        registers=compiled.registers(registers + BASE_REGISTERS),
        smem_bytes=compiled.smem(smem),
        warps=warps,
    )
    tiles = -(-inner.m // bm) * -(-inner.n // bn)
    count = waves(tiles, occupancy, gpu.sm_count).count
    first_ns = load_latency_ns(gpu, np.ones(len(table)), np.zeros(len(table), np.bool_))
    filled = np.clip(-(-tiles // gpu.sm_count), 1, occupancy)
    return np.asarray(count * first_ns / filled / 1e3)
