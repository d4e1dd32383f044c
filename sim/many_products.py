"""The cost of batches and groups of products: a plain product of all their rows, with more of B.

Multiplying, loading from the L2 and storing cost what they cost in one plain product of as many
tiles; the raster of each matrix is that of a plain one.  What differs is the traffic of device
memory: every matrix (or every expert with rows) brings a B of its own, read once, and rows that
several matrices share an L2 line of are no matter.  Rows of experts count as whole tiles, as many
as uniformly chosen experts have on average.

Behind what is new here stand 53 timings of an H200 (``data/h200/sweeps``, of which 33 in view):
the share of grouped work was set on them; on nine in view, what an [K, N] operand costs that passes
through registers while the loop over K waits: an 8-bit one always, the more the longer its rows and
the wider its tiles are, and any without the copy engine.  Batches that mostly write are predicted
at a copy's bandwidth and reach half of it.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.gemm_model import gemm_cost
from sim.gpu import Gpu
from sim.hopper_gemm_model import hopper_gemm_cost
from sim.memory import LINE_BYTES, overlap, segment_share
from sim.parameters import (
    BATCHED,
    GEMM,
    GROUPED,
    HOPPER_GEMM,
    BatchedParameters,
    GemmParameters,
    GroupedParameters,
    HopperGemmParameters,
)
from tiles.formats import element
from tiles.kernels import ConfigTable, NumericPath
from tiles.kernels.dense_view import as_gemm_table
from tiles.problems import BatchedGemm, Gemm, GroupedGemm, SecondOperand
from tiles.problems.base import MAX_EXTENT, MAX_TENSOR_BYTES

__all__ = ["batched_cost", "grouped_cost", "hopper_grouped_cost"]

F64 = NDArray[np.float64]

#: Bytes of a row at which ``turned_per_clk`` holds, and from which on all lanes meet in one bank;
#: columns of a tile at which it holds.
TURNED_ROW_BYTES, FULL_CONFLICT_BYTES, TURNED_COLUMNS = 32, 64, 64
#: Prices a plain product on rows of a table.
Price = Callable[[Gemm, ConfigTable, Compiled], Cost]


def _rows_at_once(single: Gemm, rows: float) -> int:
    """Rows of a plain product that stands for ``rows``, as many as a problem may have."""
    row_bytes = max(
        single.k * single.recipe.activation.element.bits, single.n * element(single.out).bits
    )
    return max(1, min(round(rows), MAX_EXTENT, MAX_TENSOR_BYTES * 8 // row_bytes))


def _by_height(
    table: ConfigTable,
    single: Gemm,
    rows: Callable[[int], float],
    price: Price,
    compiled: Compiled,
) -> Cost:
    """Price a table, tile height by tile height, each with the rows that its tiles cover.

    Args:
        rows: from a tile's height to rows over all matrices, padded to whole tiles.
    """
    columns: dict[str, F64] = {}
    for height in sorted(set(table["block_m"].tolist())):
        chosen = np.flatnonzero(table["block_m"] == height)
        wanted = rows(height)
        m = _rows_at_once(single, wanted)
        plain = Gemm(m=m, n=single.n, k=single.k, recipe=single.recipe, out=single.out)
        cost = price(plain, table.take(chosen), compiled.take(chosen))
        launch = cost.terms_us["launch"]
        factor = wanted / m
        found = {
            "time": (cost.time_us - launch) * factor + launch,
            "read": cost.dram_read_bytes * factor,
            "l2": cost.l2_read_bytes * factor,
            **{
                f"term {name}": term * (1.0 if name == "launch" else factor)
                for name, term in cost.terms_us.items()
            },
        }
        for name, values in found.items():
            columns.setdefault(name, np.zeros(len(table)))[chosen] = values
    return Cost(
        time_us=columns["time"],
        terms_us={
            name.removeprefix("term "): values
            for name, values in columns.items()
            if name.startswith("term ")
        },
        dram_read_bytes=columns["read"],
        dram_write_bytes=np.zeros(len(table)),
        l2_read_bytes=columns["l2"],
    )


def _with_traffic(
    plain: Cost,
    gpu: Gpu,
    *,
    row_bytes: F64 | float = LINE_BYTES,
    a_bytes: float,
    b_bytes: float,
    c_bytes: float,
    extra_us: F64,
    work_share: float,
) -> Cost:
    """A plain product's cost with the device memory's share replaced.

    Args:
        row_bytes: contiguous bytes of an operand that a tile asks for at a time.
    """
    launch = plain.terms_us["launch"]
    # Where one product of that height reads more again than all B's take, so do the many.
    read = a_bytes + np.maximum(b_bytes, plain.dram_read_bytes - a_bytes)
    # Nothing here is read twice in a short time, so short rows cost DRAM what they cost the L2.
    read_us = read / (gpu.dram_read_gb_per_s * segment_share(np.asarray(row_bytes, np.float64)))
    dram_us = (read_us + c_bytes / gpu.dram_copy_gb_per_s) / 1e3
    busy = overlap(work_share * (plain.time_us - launch), dram_us)
    terms = plain.terms_us | {"dram": dram_us}
    terms["prologue_epilogue"] = terms["prologue_epilogue"] + extra_us
    return Cost(
        time_us=busy + launch + extra_us,
        terms_us=terms,
        dram_read_bytes=read,
        dram_write_bytes=np.full_like(read, c_bytes),
        l2_read_bytes=plain.l2_read_bytes,
    )


def _grouped(
    problem: GroupedGemm,
    table: ConfigTable,
    gpu: Gpu,
    price: Price,
    compiled: Compiled,
    parameters: GroupedParameters,
) -> Cost:
    single = problem.single(1)
    plain = _by_height(
        table, single, lambda height: problem.expected_tiles(height) * height, price, compiled
    )
    weight = problem.recipe.weight.storage_bytes(problem.n, problem.k)
    rows = problem.m // problem.top_k
    return _with_traffic(
        plain,
        gpu,
        a_bytes=float(problem.recipe.activation.storage_bytes(rows, problem.k)),
        b_bytes=problem.expected_active * weight,
        c_bytes=problem.m * problem.n * element(problem.out).bits / 8,
        extra_us=np.full(len(table), parameters.scan_us),
        work_share=parameters.work_share,
    )


def grouped_cost(
    problem: GroupedGemm,
    path: NumericPath,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: GroupedParameters = GROUPED,
    product: GemmParameters = GEMM,
) -> Cost:
    """Price every configuration of a table with the columns of ``GroupedGemmConfig``."""

    def price(plain: Gemm, rows: ConfigTable, known: Compiled) -> Cost:
        most_per_sm = rows["ctas_per_sm"]
        return gemm_cost(
            plain,
            path,
            as_gemm_table(rows),
            gpu,
            known,
            most_per_sm=most_per_sm,
            parameters=product,
        )

    return _grouped(problem, table, gpu, price, compiled, parameters)


def hopper_grouped_cost(
    problem: GroupedGemm,
    table: ConfigTable,
    gpu: Gpu,
    parameters: GroupedParameters = GROUPED,
    product: HopperGemmParameters = HOPPER_GEMM,
) -> Cost:
    """Price every configuration of a table with the columns of ``HopperGemmConfig``."""

    def price(plain: Gemm, rows: ConfigTable, _: Compiled) -> Cost:
        return hopper_gemm_cost(plain, rows, gpu, product)

    return _grouped(problem, table, gpu, price, Compiled.of(len(table), {}), parameters)


def turned_clk(bits: int, table: ConfigTable, elements: F64, parameters: BatchedParameters) -> F64:
    """Clocks in which ``elements`` of a [K, N] operand come into the order of the tensor cores.

    The copy engine brings 16 bits as they are multiplied, and 8 bits are turned in registers.
    """
    bytes_ = bits // 8
    plain: F64 = elements * bytes_ / parameters.plain_turned_bytes_per_clk
    if bytes_ > 1:
        return np.where(table["tma"], 0.0, plain)
    # Bytes that lie a row of the tile apart share banks, the more the longer the rows are.
    conflicts = (np.minimum(table["block_k"], FULL_CONFLICT_BYTES) / TURNED_ROW_BYTES) ** 2
    conflicts = conflicts * np.maximum(table["block_n"] / TURNED_COLUMNS, 1.0)
    clk: F64 = elements * conflicts / parameters.turned_per_clk
    return np.where(table["tma"], clk, np.maximum(clk, plain))


def batched_cost(
    problem: BatchedGemm,
    path: NumericPath,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: BatchedParameters = BATCHED,
    product: GemmParameters = GEMM,
) -> Cost:
    """Price every configuration of a table with the columns of ``BatchedGemmConfig``."""
    batch, m, n, k = problem.shape
    single = problem.single
    plain = _by_height(
        table,
        single,
        lambda height: float(batch * -(-m // height) * height),
        lambda one, rows, known: gemm_cost(
            one, path, as_gemm_table(rows), gpu, known, parameters=product
        ),
        compiled,
    )
    weight = problem.recipe.weight
    turned = np.zeros(len(table))
    if problem.second is SecondOperand.KN:
        tiles = batch * -(-m // table["block_m"]) * -(-n // table["block_n"])
        elements = tiles * table["block_n"] * k / gpu.sm_count
        clk = turned_clk(weight.element.bits, table, elements, parameters)
        turned = clk / (gpu.sustained_clock_mhz / 1e3) / 1e3
    return _with_traffic(
        plain,
        gpu,
        a_bytes=float(batch * problem.recipe.activation.storage_bytes(m, k)),
        b_bytes=float(batch * weight.storage_bytes(n, k)),
        c_bytes=batch * m * n * element(problem.out).bits / 8,
        row_bytes=table["block_k"] * (problem.recipe.activation.element.bits / 8),
        extra_us=turned,
        work_share=parameters.work_share,
    )
