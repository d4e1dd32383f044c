"""How the CTAs of a dataflow kernel go through a matrix, turn by turn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.dataflow_instructions import moves_lines
from sim.gpu import Gpu
from sim.parameters import DataflowRowParameters
from tiles.kernels import ConfigTable
from tiles.kernels.dataflow_blocks import (
    block_registers,
    block_smem_bytes,
    blocks_at_once,
    line_bytes,
)
from tiles.kernels.dataflow_family import LINE_VECTORS, VECTOR, block_of, items
from tiles.kernels.dataflow_rows import row_registers, row_smem_bytes, row_steps
from tiles.problems import Dataflow

__all__ = ["Walk", "by_blocks", "by_rows"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

#: Clocks of a barrier of a CTA; a cluster's comes on top.
BARRIER_CLK = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """How CTAs go through a matrix; one entry a configuration."""

    registers: I64  #: of a thread, about
    smem_bytes: I64  #: of a CTA
    ctas: I64
    cluster: I64  #: CTAs of a cluster
    turns: F64  #: of a CTA, a mean where not all have as many
    elements: F64  #: of a thread in a turn
    in_flight_bytes: F64  #: of a CTA
    cold: F64  #: share of the turns whose loads nobody asked for a turn ahead
    ahead: F64  #: of such a turn's bytes, what it waits for
    idle_ns: F64  #: of a turn, for a cluster's barriers and for loads when they are needed
    alone: Bool  #: a warp waits for no other warp of its CTA between turns
    piece_bytes: I64  #: neighbouring codes that threads ask for together
    exchanged_bytes: F64  #: sums of clusters, written and read by a second launch


def by_blocks(problem: Dataflow, table: ConfigTable, gpu: Gpu) -> Walk:
    """Operators that look at one block at a time; a turn is a step."""
    rows, cols = problem.shape
    threads, lanes, steps = table["threads"], table["lanes"], table["steps"].astype(np.float64)
    side, line = blocks_at_once(problem, table), line_bytes(problem, table)
    elements: F64 = (VECTOR * items(problem, table) * side).astype(np.float64)
    blocks = problem.target.scale_count(rows, cols)
    none: F64 = np.zeros(len(table))
    # Gamma and beta of a block's columns are asked for when they are needed.
    asks: F64 = side * gpu.l2_latency_ns * problem.op.endswith("-apply") + none
    return Walk(
        registers=block_registers(problem, table),
        smem_bytes=block_smem_bytes(problem, table),
        ctas=-(-blocks // np.maximum(threads // lanes * table["steps"] * side, 1)),
        cluster=np.ones(len(table), np.int64),
        turns=steps,
        elements=elements,
        in_flight_bytes=(threads * problem.matrices) * elements,
        cold=1.0 / steps,
        ahead=none + 1.0,
        idle_ns=asks,
        # Warps of one tile each begin together, and leave room together.
        alone=(line > 0) & (table["steps"] > 1),
        piece_bytes=np.where(line > 0, line, _beside_bytes(problem, lanes, threads // lanes)),
        exchanged_bytes=none,
    )


def by_rows(
    problem: Dataflow, table: ConfigTable, gpu: Gpu, of: DataflowRowParameters, clock_ghz: float
) -> Walk:
    """Operators that need whole rows; a turn is a row group."""
    rows, cols = problem.shape
    threads, lanes, splits = table["threads"], table["lanes"], table["splits"]
    groups = -(-rows // table["rows"])
    backward, residual = problem.op.endswith("-bwd"), problem.op == "residual"
    walking = backward | (table["clusters"] > 1)
    clusters = np.where(walking, np.minimum(groups, table["clusters"]), groups)
    steps = row_steps(problem, table)
    have = VECTOR * items(problem, table)
    turns = groups / clusters
    # Addends come step by step; what norms are taken of is asked for as a whole.
    asked = 1 if residual else steps
    across = threads // lanes // np.maximum(table["rows"] // block_of(problem)[0], 1)
    line = LINE_VECTORS * VECTOR
    lines = moves_lines(problem, table)
    barrier_clk: F64 = np.where(splits > 1, of.cluster_clk, 0.0) + BARRIER_CLK
    return Walk(
        registers=row_registers(problem, table),
        smem_bytes=row_smem_bytes(problem, table),
        ctas=clusters * splits,
        cluster=splits,
        turns=turns,
        elements=(steps * have).astype(np.float64),
        in_flight_bytes=(threads * have * problem.matrices * asked).astype(np.float64),
        cold=np.where(walking, 1.0 / np.ceil(turns), 1.0),
        ahead=1.0 / steps if residual else np.ones(len(table)),
        idle_ns=2.0 * barrier_clk / clock_ghz,  # set when sums travelled twice, by barriers
        alone=np.zeros(len(table), np.bool_),
        piece_bytes=np.where(lines, line, _beside_bytes(problem, lanes, across)),
        exchanged_bytes=8.0 * cols * clusters * backward,
    )


def _beside_bytes(problem: Dataflow, lanes: I64, across: I64) -> I64:
    """Bytes of a row of the blocks that threads share, ``cuda.dataflow_arguments.beside``."""
    cols = block_of(problem)[1]
    vectors = cols // VECTOR
    shared = np.maximum(np.minimum(LINE_VECTORS // vectors, across), 1)
    beside: I64 = np.where(lanes < vectors, 1, shared) * cols
    return np.minimum(beside, LINE_VECTORS * VECTOR)
