"""The cost of a scaled GEMM's modes: shared K, promotion under products, specialised warps.

Each mode is priced as the plain product that it resembles, with what the mode changes on top.
Stream-K and promotion under products were set on sweeps of an H200 (``data/h200/sweeps``, shapes in
view: 13 and 19 timings).  One timing each of split-K and of specialised warps is there: their
constants are guesses.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.gemm_model import gemm_cost
from sim.gpu import Gpu
from sim.parameters import GEMM, GemmParameters
from tiles.formats import element
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.gemm_smem import column
from tiles.problems import Gemm

__all__ = ["scaled_gemm_cost"]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

#: Of the shorter of product and promotion, the part that specialised warps hide; a guess.
HIDDEN_SHARE = 0.25
#: A step of a stream-K program, as a multiple of the same persistent launch's without it: measured,
#: its loop has bounds and a tile that change.
STREAM_WORK = 1.17
#: Steps along K that a program of a stream-K launch has at least.
LEAST_STEPS = 4
#: An arrival: sums to the L2, the counter, and back.
ARRIVAL_TRIPS = 3


def scaled_gemm_cost(
    problem: Gemm,
    path: NumericPath,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: GemmParameters = GEMM,
) -> Cost:
    """Price every configuration of a table with the columns of ``GemmConfig``."""

    def plain(one: Gemm, rows: ConfigTable, known: Compiled) -> Cost:
        return gemm_cost(one, path, rows, gpu, known, parameters=parameters)

    # Other families' tables of plain products have none of these columns.
    split, stream = column(table, "split_k", 1), column(table, "stream_k", False)
    specialize = column(table, "specialize", False)
    # Promotion that the compiler is asked to run under products (``overlap``) hid nothing.
    if not (stream | specialize | (split > 1)).any():
        return plain(problem, table, compiled)
    # Rows of stream-K and of promotion under products differ from plain ones behind the pricing.
    priced = np.empty(len(table), np.int64)
    costs: list[Cost] = []
    start = 0
    for shares in np.unique(split).tolist():
        rows = np.flatnonzero(split == shares)
        part = table.take(rows)
        # Two warpgroups multiply where one of four warps is asked for.
        warps = np.where(specialize[rows], 2, 1) * part["num_warps"]
        part = ConfigTable(part.config_type, {**part.columns, "num_warps": warps})
        known = compiled.take(rows)
        if shares == 1:
            costs.append(plain(problem, part, known))
        else:
            costs.append(_split(problem, shares, part, known, gpu, plain))
        priced[rows] = np.arange(start, start + len(rows))
        start += len(rows)
    cost = _joined(costs, priced)
    cost = _streamed(problem, table, gpu, cost)
    return _hidden(problem, specialize, cost)


def _split(
    problem: Gemm,
    shares: int,
    table: ConfigTable,
    compiled: Compiled,
    gpu: Gpu,
    price: Callable[[Gemm, ConfigTable, Compiled], Cost],
) -> Cost:
    """Shares of K as tiles of a product that is as much longer and shallower.

    Its fp32 sums are written as its output would be, through DRAM, which is dear where the L2 holds
    them.
    """
    m, n, k = problem.shape
    part = -(-k // shares)
    along_m = m >= n
    longer = replace(
        problem,
        m=m * shares if along_m else m,
        n=n if along_m else n * shares,
        k=part,
        out="fp32",
    )
    cost = price(longer, table, compiled)
    # The side that was not made longer is as large as before, and of the other one a block of
    # scales that ends with its rows does so in every share.
    sides = [(problem.recipe.activation, m), (problem.recipe.weight, n)]
    (stretched, length), (fmt, rows) = sides if along_m else sides[::-1]
    missing = float(fmt.storage_bytes(rows, k)) - float(fmt.storage_bytes(rows, part))
    whole = stretched.storage_bytes(length, k) - stretched.storage_bytes(length * shares, part)
    missing += max(float(whole), 0.0)
    tiles = -(-m // table["block_m"]) * -(-n // table["block_n"])
    tile_bytes = 4.0 * table["block_m"] * table["block_n"]
    reduce_us = _reduce_us(gpu, shares * tile_bytes)
    missing_us = missing / gpu.dram_read_gb_per_s / 1e3
    terms = dict(cost.terms_us)
    terms["prologue_epilogue"] = terms["prologue_epilogue"] + reduce_us
    terms["dram"] = terms["dram"] + missing_us
    return Cost(
        time_us=cost.time_us + reduce_us + missing_us,
        terms_us=terms,
        dram_read_bytes=cost.dram_read_bytes + missing,
        dram_write_bytes=np.full(len(table), float(m * n * element(problem.out).bits // 8)),
        l2_read_bytes=cost.l2_read_bytes + shares * tiles * tile_bytes,
    )


def _reduce_us(gpu: Gpu, read_bytes: F64) -> F64:
    """What the last program of a tile adds to the launch: arrival, and reading all sums."""
    clock_ghz = gpu.sustained_clock_mhz / 1e3
    reading: F64 = read_bytes / (gpu.l2_bytes_per_clk_per_sm * clock_ghz)
    return (ARRIVAL_TRIPS * gpu.l2_latency_ns + reading) / 1e3


def _streamed(problem: Gemm, table: ConfigTable, gpu: Gpu, cost: Cost) -> Cost:
    """Waves of a persistent launch that stream-K fills to the last multiprocessor."""
    stream = column(table, "stream_k", False)
    if not stream.any():
        return cost
    tiles = -(-problem.m // table["block_m"]) * -(-problem.n // table["block_n"])
    steps = -(-problem.k // table["block_k"])
    filled = tiles / gpu.sm_count
    # A program takes some steps at least.
    busy = np.maximum(filled / np.ceil(filled), np.minimum(LEAST_STEPS / steps, 1.0))
    share = np.where(stream, busy * STREAM_WORK, 1.0)
    terms = dict(cost.terms_us)
    fixed = terms["launch"] + terms["prologue_epilogue"]
    tile_bytes = 4.0 * table["block_m"] * table["block_n"]
    # Programs that a tile of the shared waves has, at most.
    sharing = np.ceil(1.0 / np.minimum(filled, 1.0)) + 1
    extra = np.where(stream, _reduce_us(gpu, sharing * tile_bytes), 0.0)
    for name in ("tensor", "cuda_cores", "shared_memory", "latency"):
        terms[name] = terms[name] * share
    terms["prologue_epilogue"] = terms["prologue_epilogue"] + extra
    # Bytes take their time however evenly programs share the work.
    bytes_us = cost.dram_read_bytes / gpu.dram_read_gb_per_s / 1e3
    bytes_us = np.maximum(bytes_us, np.where(stream, terms["l2"], 0.0))
    least = np.minimum(cost.time_us, bytes_us + fixed)
    terms["dram"] = np.where(stream, np.minimum(terms["dram"], bytes_us), terms["dram"])
    time_us = np.maximum((cost.time_us - fixed) * share + fixed, least)
    programs = np.minimum(gpu.sm_count, np.maximum(tiles, tiles * steps // LEAST_STEPS))
    shared = tiles - np.maximum(tiles // programs - 1, 0) * programs
    # Ends of the programs' shares that lie within a tile, whose last program reads all sums.
    cuts = programs - np.gcd(shared, programs)
    read_bytes = np.where(stream, (cuts + np.minimum(cuts, shared)) * tile_bytes, 0.0)
    return replace(
        cost,
        time_us=time_us + extra,
        terms_us=terms,
        l2_read_bytes=cost.l2_read_bytes + read_bytes,
    )


def _hidden(problem: Gemm, specialize: NDArray[np.bool_], cost: Cost) -> Cost:
    """Promotion that runs under the products of the other warpgroup."""
    if not problem.recipe.blockwise or not specialize.any():
        return cost
    tensor, cuda = cost.terms_us["tensor"], cost.terms_us["cuda_cores"]
    saved = np.where(specialize, HIDDEN_SHARE * np.minimum(tensor, cuda), 0.0)
    # Never below what the slower of the two takes.
    least = np.minimum(cost.time_us, np.maximum(tensor, cuda) + cost.terms_us["launch"])
    return replace(cost, time_us=np.maximum(cost.time_us - saved, least))


def _joined(costs: list[Cost], order: I64) -> Cost:
    """Costs one behind the other, and of them the row ``order[i]`` in place i."""

    def join(columns: list[F64]) -> F64:
        return np.concatenate(columns)[order]

    return Cost(
        time_us=join([c.time_us for c in costs]),
        terms_us={name: join([c.terms_us[name] for c in costs]) for name in costs[0].terms_us},
        dram_read_bytes=join([c.dram_read_bytes for c in costs]),
        dram_write_bytes=join([c.dram_write_bytes for c in costs]),
        l2_read_bytes=join([c.l2_read_bytes for c in costs]),
    )
