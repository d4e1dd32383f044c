"""What a residual may look at: a prediction's own terms, the configuration, the problem."""

import math

import numpy as np
from numpy.typing import NDArray

from sim.prediction import PricedTable
from tiles.formats import IntElement
from tiles.kernels import ConfigTable
from tiles.problems import Problem

__all__ = ["features"]

F64 = NDArray[np.float64]

#: Terms that some cost function names; one that a family lacks is 0 there.
TERMS = (
    "tensor",
    "cuda_cores",
    "shared_memory",
    "l2",
    "dram",
    "load_store",
    "latency",
    "prologue_epilogue",
    "launch",
    "decode",
)
#: Extents of the longest shape that a problem has.
EXTENTS = 4


def _tile_waves(table: ConfigTable, problem: Problem, sm_count: int) -> F64:
    """The last wave's idle share when every SM holds one tile; 0 where there are no tiles."""
    if "block_m" not in table.columns or "block_n" not in table.columns:
        return np.zeros(len(table))
    m, n = problem.shape[-3], problem.shape[-2]
    tiles = -(-m // table["block_m"]) * -(-n // table["block_n"])
    waves = tiles / sm_count
    idle: F64 = 1.0 - waves / np.ceil(waves)
    return idle


def features(priced: PricedTable, sm_count: int) -> tuple[tuple[str, ...], F64]:
    """Names, and (rows, features) numbers of priced configurations.

    The names are the same for all problems of a kind and all tables of a family.
    """
    problem, table = priced.problem, priced.table
    rows = len(priced)
    columns: dict[str, F64] = {}
    for axis in range(EXTENTS):
        extent = problem.shape[axis] if axis < len(problem.shape) else 1
        columns[f"log2_extent_{axis}"] = np.full(rows, math.log2(extent))
    columns["log2_time_us"] = np.log2(priced.time_us)
    columns["log2_flop_per_byte"] = np.full(
        rows, math.log2(max(problem.flops, 1) / problem.min_bytes)
    )
    for name in TERMS:
        share = priced.terms_us.get(name)
        columns[f"share_{name}"] = (
            np.zeros(rows) if share is None else np.minimum(share / priced.time_us, 2.0)
        )
    columns["read_again"] = np.log2(
        np.maximum(priced.dram_read_bytes + priced.dram_write_bytes, 1.0) / problem.min_bytes
    )
    columns["idle_tail"] = _tile_waves(table, problem, sm_count)
    recipe = getattr(problem, "recipe", None)
    activation = None if recipe is None else recipe.activation
    columns["element_bits"] = np.full(rows, 0 if activation is None else activation.element.bits)
    columns["integer"] = np.full(
        rows, activation is not None and isinstance(activation.element, IntElement)
    )
    columns["blockwise"] = np.full(rows, recipe is not None and recipe.blockwise)
    for name, column in table.columns.items():
        values = column.astype(np.float64)
        columns[f"config_{name}"] = values if column.dtype == np.bool_ else np.log2(1.0 + values)
    return tuple(columns), np.stack([np.asarray(c, np.float64) for c in columns.values()], axis=1)
