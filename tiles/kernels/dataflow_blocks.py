"""Descriptor of the dataflow kernel whose operators look at one block at a time."""

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
    "BLOCK_OPS",
    "TABLED_ELEMENTS",
    "CudaDataflowBlocks",
    "DataflowBlocksConfig",
    "block_registers",
    "block_smem_bytes",
    "blocks_at_once",
    "line_bytes",
]

BLOCK_OPS = (
    "gelu", "gelu-bwd", "silu", "silu-bwd", "relu", "relu-bwd", "dropout", "layernorm-apply",
    "rmsnorm-apply",
)  # fmt: skip
#: Registers of a thread of the blockwise kernel: a base, of every vector its values and the next
#: tile's codes, and more for every matrix where activations are worked out at every element.
#: Compiled for sm_90 these spill 8 bytes at most; int8 codes that are multiplied by one number (see
#: the source) stay as they are.
BASE_REGISTERS, LINEAR_REGISTERS, VECTOR_REGISTERS = 32, 12, 24
VALUE_REGISTERS, NEXT_REGISTERS = 16, 8
LINEAR_OPS = ("relu", "relu-bwd", "dropout")
#: Blocks of that many elements look activations up, ``cuda.dataflow_blocks``.
TABLED_ELEMENTS, TABLE_BYTES = 1024, 4 * 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DataflowBlocksConfig(TileConfig):
    """One configuration of the blockwise dataflow kernel."""

    threads: int  #: threads of a CTA
    lanes: int  #: threads that share one quantisation block, a power of two
    steps: int  #: blocks that every group of lanes takes one after the other
    ctas: int  #: CTAs that an SM should hold: what bounds registers


def block_registers(problem: Dataflow, table: ConfigTable) -> I64:
    """About how many registers a thread of the blockwise kernel takes."""
    rows, cols = block_of(problem)
    int8 = problem.target.element.name == "int8"
    if int8 and problem.op in LINEAR_OPS:
        base, vector = BASE_REGISTERS + 8 * (problem.op == "dropout"), LINEAR_REGISTERS
    else:
        direct = problem.op.startswith(("gelu", "silu")) and rows * cols < TABLED_ELEMENTS
        base, vector = BASE_REGISTERS, VECTOR_REGISTERS
        if direct or not int8:
            base, vector = BASE_REGISTERS + 8, VALUE_REGISTERS + NEXT_REGISTERS * problem.matrices
    taken: I64 = base + vector * items(problem, table)
    return taken


def block_smem_bytes(problem: Dataflow, table: ConfigTable) -> I64:
    """Dynamic shared memory of a CTA of the blockwise kernel: tables, largest values of warps."""
    rows, cols = block_of(problem)
    threads, lanes = table["threads"], np.maximum(table["lanes"], 1)
    tabled = problem.op.startswith(("gelu", "silu")) and rows * cols >= TABLED_ELEMENTS
    groups, vectors = threads // lanes, cols // VECTOR
    side = np.where(lanes < vectors, 1, np.maximum(np.minimum(LINE_VECTORS // vectors, groups), 1))
    copies = np.where(side * lanes > WARP, 2, 1)
    shared: I64 = copies * (tabled * groups * TABLE_BYTES + threads // 32 * side * 4)
    # Of a warp that moves lines (``cuda.dataflow_blocks.lined``): its tiles, and a table.
    stages = np.where(table["steps"] > 1, 2, 1)
    moved = line_bytes(problem, table)
    tiles = stages * problem.matrices * rows * moved
    lines: I64 = threads // WARP * (tiles + tabled * TABLE_BYTES)
    return np.where(moved > 0, lines, shared)


def line_bytes(problem: Dataflow, table: ConfigTable) -> I64:
    """Bytes of a tile's rows where a warp has blocks to itself and moves lines, else 0."""
    rows, cols = block_of(problem)
    line = LINE_VECTORS * VECTOR
    fits = cols < line and problem.rows % rows == 0 and problem.cols % line == 0
    alone = (table["lanes"] == WARP) & fits & (rows * cols >= WARP * VECTOR)
    moved: I64 = np.where((table["steps"] > 1) & (problem.matrices > 1), line // 2, line) * alone
    return moved


def blocks_at_once(problem: Dataflow, table: ConfigTable) -> I64:
    """Blocks that the threads of one take at a step: a line's where a warp moves lines."""
    taken: I64 = np.maximum(line_bytes(problem, table) // block_of(problem)[1], 1)
    return taken


class CudaDataflowBlocks(DataflowKernel):
    """``tiles/kernels/cuda/dataflow_blocks.cu``: operators that look at one block at a time."""

    name: ClassVar[str] = "cuda_dataflow_blocks"
    config_type: ClassVar[type[TileConfig]] = DataflowBlocksConfig
    ops: ClassVar[tuple[str, ...]] = BLOCK_OPS

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        assert isinstance(problem, Dataflow)
        return ConfigTable.product(
            DataflowBlocksConfig,
            threads=[64, 128, 256, 512, 1024],
            lanes=self.lanes(problem),
            steps=[1, 2, 4, 8, 16, 32],
            ctas=[1, 2, 3, 4, 6, 8, 12, 16],
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Dataflow)
        steps = table["steps"]
        registers = block_registers(problem, table)
        return [
            *self.common_rules(problem, table, limits, registers),
            Rule("steps", steps < 1, lambda i: f"steps {steps[i]}: it must be at least 1"),
            self.shared_memory_rule(block_smem_bytes(problem, table), limits),
        ]

    def default(self, problem: Problem, limits: Limits) -> DataflowBlocksConfig:
        assert isinstance(problem, Dataflow)
        rows, cols = block_of(problem)
        # Two vectors a thread, 32 bytes of each matrix's next block in flight, at 96 registers or,
        # for gradients and dropout, 128.
        lanes = max(1, rows * cols // VECTOR // 2)
        threads = max(128, lanes)
        many = problem.matrices > 1 or problem.op == "dropout"
        ragged = problem.cols % VECTOR > 0  # codes one by one, random bits of each: more registers
        resident = (256 if many else 512) if ragged else 512 if many else 640
        ctas = max(1, resident // threads)
        return DataflowBlocksConfig(threads=threads, lanes=lanes, steps=4, ctas=ctas)

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "dataflow_blocks.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.cuda import dataflow_blocks, philox_keys

        assert isinstance(problem, Dataflow)
        high, wide = block_of(problem)
        fields, aligned = (
            config.to_dict(),
            problem.cols % VECTOR == 0,
        )  # device memory starts aligned
        lines = dataflow_blocks.lined(problem.shape, (high, wide), fields)
        options = dataflow_blocks.options(
            op=problem.op,
            element=problem.target.element.name,
            block=(high, wide),
            stochastic=problem.target.rounding is Rounding.STOCHASTIC,
            aligned=aligned,
            whole=dataflow_blocks.whole_tiles(problem.shape, (high, wide), fields),
            lines=lines,
            narrow=philox_keys.is_narrow(problem.shape),
            config=fields,
        )
        smem = dataflow_blocks.smem_bytes(problem.op, (high, wide), fields, lines=lines)
        return self.offline(options, smem, config, limits)
