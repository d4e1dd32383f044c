"""Descriptor of the dataflow kernel whose operators need whole rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from tiles.formats import Rounding
from tiles.kernels.base import Limits
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.dataflow_family import (
    I64,
    LINE_VECTORS,
    VECTOR,
    WARP,
    DataflowKernel,
    block_of,
    items,
)
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Dataflow, Problem

__all__ = [
    "ROW_OPS",
    "CudaDataflowRows",
    "DataflowRowsConfig",
    "column_steps",
    "row_registers",
    "row_smem_bytes",
    "row_steps",
]

ROW_OPS = ("residual", "layernorm", "rmsnorm", "layernorm-bwd", "rmsnorm-bwd")
#: First NVIDIA capability with clusters.
CLUSTER_CAPABILITY = 90
ROW_REGISTERS, ROW_VECTOR_REGISTERS = 24, 28
#: Floats that a CTA's barriers take.
BARRIERS = 4
#: Two row groups are kept in less, see ``cuda.dataflow_rows``.
STAGES_BYTES = 216 * 1024
#: Words of 4 columns that a thread adds up in backward, 8 registers each.
MAX_COLUMN_STEPS = 4
#: Columns of a block that backward takes, see ``cuda.dataflow_rows``.
BACKWARD_COLS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class DataflowRowsConfig(TileConfig):
    """One configuration of the dataflow kernel for whole rows."""

    threads: int  #: threads of a CTA
    lanes: int  #: threads that share one quantisation block, a power of two
    rows: int  #: rows of a cluster, whole blocks high
    splits: int  #: CTAs of a cluster, side by side along the columns
    clusters: int  #: of norms: most that walk through row groups (forward, 1: one a group); else 1
    ctas: int  #: CTAs that an SM should hold: what bounds registers


def row_registers(problem: Dataflow, table: ConfigTable) -> I64:
    """About how many registers a thread of the row kernel takes."""
    sums = 8 * (column_steps(problem, table) - 1)
    taken: I64 = ROW_REGISTERS + sums + ROW_VECTOR_REGISTERS * items(problem, table)
    return taken


def _share(problem: Dataflow, table: ConfigTable) -> I64:
    """Blocks across a CTA's part of the columns."""
    across = -(-problem.cols // block_of(problem)[1])
    share: I64 = -(-across // np.maximum(table["splits"], 1))
    return share


def row_steps(problem: Dataflow, table: ConfigTable) -> I64:
    """Steps of a CTA along its share of the columns."""
    down = np.maximum(table["rows"] // block_of(problem)[0], 1)
    groups = np.maximum(table["threads"] // np.maximum(table["lanes"], 1), 1)
    steps: I64 = -(-_share(problem, table) // np.maximum(groups // down, 1))
    return steps


def column_steps(problem: Dataflow, table: ConfigTable) -> I64:
    """Words of 4 columns that a thread adds up over rows; 1 where none are."""
    if not problem.op.endswith("-bwd"):
        return np.ones(len(table), np.int64)
    cols = _share(problem, table) * block_of(problem)[1]
    words: I64 = -(-cols // (4 * np.maximum(table["threads"], 1)))
    return words


def row_smem_bytes(problem: Dataflow, table: ConfigTable) -> I64:
    """Dynamic shared memory of a CTA: codes that it keeps, and what its threads exchange."""
    walks, backward = problem.op != "residual", problem.op.endswith("-bwd")
    kept = walks + backward
    threads, rows, steps = table["threads"], table["rows"], row_steps(problem, table)
    wide = block_of(problem)[1]
    down = np.maximum(rows // block_of(problem)[0], 1)
    groups = np.maximum(threads // np.maximum(table["lanes"], 1), 1)
    beside = np.maximum(groups // down, 1)
    codes = kept * steps * items(problem, table) * threads * VECTOR
    columns = (walks + (problem.op == "layernorm")) * steps * beside * wide
    vectors = wide // VECTOR
    shared = np.where(
        table["lanes"] < vectors, 1, np.maximum(np.minimum(LINE_VECTORS // vectors, beside), 1)
    )
    # Of warps that have blocks to themselves and move whole lines: ``Geometry.lined``.
    high, line = block_of(problem)[0], LINE_VECTORS * VECTOR
    fits = (problem.cols % (table["splits"] * beside * line) == 0) & (problem.rows % rows == 0)
    alone = (table["lanes"] == WARP) & (high * wide >= WARP * VECTOR) & (wide < line)
    lined = alone & fits & (down == 1)
    shared = np.where(lined, 1, shared)
    if not walks:  # of a residual's addends
        codes = np.where(lined, 2 * high * line * groups, codes)
    sums = (threads // 16 if backward else 4 * beside // shared) * rows
    floats = columns + 2 * kept * steps * groups + sums + 2 * shared * threads // 32
    # Of a cluster that walks through row groups two by turns; and what CTAs send one another.
    groups_down = -(-problem.rows // np.maximum(rows, 1))
    given = table["clusters"]
    parities = 1 + ((given < groups_down) & (backward | (given > 1)))
    shares = table["splits"] * (1 if problem.op == "rmsnorm-bwd" else 2)
    rest = 4 * (floats + (parities * (shares + 2) + 4 * backward) * rows + BARRIERS)
    roomy = table["ctas"] * (2 * codes + rest) <= STAGES_BYTES
    stages = 1 + (walks & roomy & (backward | (table["clusters"] > 1)))
    total: I64 = stages * codes + rest
    return total


class CudaDataflowRows(DataflowKernel):
    """``tiles/kernels/cuda/dataflow_rows.cu``: operators that need whole rows."""

    name: ClassVar[str] = "cuda_dataflow_rows"
    config_type: ClassVar[type[TileConfig]] = DataflowRowsConfig
    ops: ClassVar[tuple[str, ...]] = ROW_OPS

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        assert isinstance(problem, Dataflow)
        high = block_of(problem)[0]
        most = 4 if problem.op.endswith("-bwd") else 6 if problem.op == "residual" else 5
        return ConfigTable.product(
            DataflowRowsConfig,
            threads=[128, 256, 512, 1024],
            lanes=self.lanes(problem),
            rows=sorted({max(high, n) for n in (4, 16, 32)}),
            splits=[1, 2, 4, 8],
            clusters={
                "residual": [1],
                "layernorm": [1, 32, 64, 128],
                "rmsnorm": [1, 32, 64, 128],
            }.get(problem.op, [16, 32, 48, 64, 96]),
            ctas=list(range(1, most + 1)),
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Dataflow)
        high, wide = block_of(problem)
        threads, lanes, rows = table["threads"], table["lanes"], table["rows"]
        splits, clusters = table["splits"], table["clusters"]
        groups, down = threads // np.maximum(lanes, 1), np.maximum(rows // high, 1)
        smem, words = row_smem_bytes(problem, table), column_steps(problem, table)
        across = -(-problem.cols // wide)
        return [
            *self.common_rules(problem, table, limits, row_registers(problem, table)),
            Rule(
                "rows",
                (rows < 1) | (rows % high != 0) | (groups % down != 0),
                lambda i: (
                    f"{rows[i]} rows: whole blocks of {high}, as many as divide {groups[i]} groups "
                    "of lanes, are needed"
                ),
            ),
            Rule(
                "splits",
                ~np.isin(splits, (1, 2, 4, 8))
                | ((splits > 1) & (limits.capability < CLUSTER_CAPABILITY))
                | (splits > across),
                lambda i: (
                    f"splits {splits[i]}: 1, 2, 4 or 8, at most the {across} blocks across, and 1 "
                    f"below capability {CLUSTER_CAPABILITY} ({limits.gpu}: {limits.capability})"
                ),
            ),
            Rule(
                "clusters",
                (clusters < 1) | ((clusters > 1) & (problem.op == "residual")),
                lambda i: f"clusters {clusters[i]}: 1, or more for norms",
            ),
            Rule(
                "columns",
                words > MAX_COLUMN_STEPS,
                lambda i: f"{words[i]} words of 4 columns a thread > {MAX_COLUMN_STEPS}",
            ),
            Rule(
                "row of a block",
                np.minimum(lanes, wide // VECTOR) > WARP,
                lambda i: f"{lanes[i]} lanes share a row of a block: {WARP} at most",
            ),
            self.shared_memory_rule(smem, limits),
        ]

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if reason := super().refusal(problem, limits):
            return reason
        assert isinstance(problem, Dataflow)
        if problem.op.endswith("-bwd") and block_of(problem)[1] > BACKWARD_COLS:
            return (
                f"{self.name} adds up rows of blocks of {BACKWARD_COLS} columns at most, not of "
                f"{problem.target.scaling}"
            )
        space = self.legal_space(problem, limits)
        if len(space.accepted):
            return None
        rules = ", ".join(space.rejected_by_rule)
        return f"{self.name} cannot hold rows of {problem.cols} columns on {limits.gpu}: {rules}"

    def default(self, problem: Problem, limits: Limits) -> DataflowRowsConfig:
        """The legal configuration nearest to 256 threads, two vectors each, 32 KiB of codes."""
        assert isinstance(problem, Dataflow)
        legal = self.legal_space(problem, limits).accepted
        smem, have = row_smem_bytes(problem, legal), items(problem, legal)
        # Forward, a cluster for each row group was faster than walking with one group in memory.
        clusters = 64 if problem.op.endswith("-bwd") else 1
        distance = (
            100 * abs(np.log2(have / 2))
            + 10 * abs(np.log2(legal["threads"] / 256))
            + abs(np.log2(np.maximum(smem, 1) / 2**15))
            + 0.1 * abs(legal["ctas"] - 2)
            + 0.01 * abs(np.log2(legal["clusters"] / clusters))
            + 0.001 * legal["rows"]
        )
        config = legal.config(int(np.argmin(distance)))
        assert isinstance(config, DataflowRowsConfig)
        return config

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "dataflow_rows.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.cuda import dataflow_rows
        from tiles.kernels.cuda.dataflow_row_geometry import geometry

        assert isinstance(problem, Dataflow)
        options = dataflow_rows.options(
            op=problem.op,
            element=problem.target.element.name,
            shape=problem.shape,
            block=block_of(problem),
            stochastic=problem.target.rounding is Rounding.STOCHASTIC,
            aligned=problem.cols % VECTOR == 0,  # device memory starts aligned
            config=config.to_dict(),
        )
        covered = geometry(
            op=problem.op, shape=problem.shape, block=block_of(problem), config=config.to_dict()
        )
        return self.offline(options, covered.smem_bytes, config, limits)
