"""Descriptor of the block quantisation in Triton."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.kernels.base import Limits, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.quantize_family import (
    MAX_PROGRAMS,
    MAX_REGISTERS,
    MAX_THREADS,
    QuantizeKernel,
    casts_in_hardware,
    extents_of,
    is_row,
    is_tensor,
    powers_of_two,
    source_bytes,
)
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.tile_rules import next_power_of_two
from tiles.kernels.triton_kernel import TritonKernel
from tiles.problems import Problem, Quantize

__all__ = ["TritonQuantize", "TritonQuantizeConfig"]

#: Triton refuses larger tiles.
MAX_TILE_ELEMENTS = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonQuantizeConfig(TileConfig):
    """One configuration of the Triton quantisation kernel."""

    block_rows: int  #: tile rows of one program, elements
    block_cols: int  #: tile columns of one program (or of one step through a block), elements
    num_warps: int
    num_stages: int  #: loads in flight where a program steps through a block larger than its tile
    software_cast: (
        bool  #: round 8-bit floats by integer operations, for GPUs without the instruction
    )


class TritonQuantize(QuantizeKernel, TritonKernel):
    """``tiles/kernels/triton/quantize_blocks.py``: tensor, row and block scalings, any extents."""

    name: ClassVar[str] = "triton_quantize"
    config_type: ClassVar[type[TileConfig]] = TritonQuantizeConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if reason := super().refusal(problem, limits):
            return reason
        assert isinstance(problem, Quantize)
        if not problem.target.plain:
            return f"{self.name} writes fp32 absmax scales and rounds to even, not {problem.target}"
        if problem.transposed or problem.swizzled:
            return f"{self.name} writes neither transposed copies nor swizzled scales"
        return None

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        assert isinstance(problem, Quantize)
        rows, cols = (next_power_of_two(extent) for extent in extents_of(problem))
        cast = not casts_in_hardware(problem, limits)
        flat = is_tensor(problem)
        return ConfigTable.product(
            TritonQuantizeConfig,
            block_rows=[1] if flat else sorted({1, 2, 4, 8, 16, 32, 64, 128} | {min(rows, 128)}),
            block_cols=sorted({32, 128, 256, 512, 1024, 2048, 4096, 8192} | {min(cols, 16384)}),
            num_warps=[1, 2, 4, 8, 16],
            num_stages=[1] if flat else [1, 3],
            software_cast=[cast],
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Quantize)
        tile_rows, tile_cols = table["block_rows"], table["block_cols"]
        warps, stages, software = table["num_warps"], table["num_stages"], table["software_cast"]
        block_rows, block_cols = extents_of(problem)
        elements = tile_rows * tile_cols
        threads = warps * limits.warp_threads

        powers = powers_of_two(tile_rows) & powers_of_two(tile_cols) & powers_of_two(warps)
        whole, fits, loops = self._coverage(problem, table)
        # Compiled for sm_90: 16, 32 and 64 elements a thread take 40, 64 and 127 registers.
        registers = np.maximum(32, 2 * -(-elements // np.maximum(threads, 1)))
        smem = np.where(loops, stages * elements * source_bytes(problem), 0)
        if is_tensor(problem):
            programs = -(-problem.rows * problem.cols // np.maximum(elements, 1))
        else:
            covered_rows = np.where(whole, tile_rows, tile_rows if is_row(problem) else block_rows)
            covered_cols = np.where(whole, tile_cols, block_cols)
            programs = -(-problem.rows // covered_rows) * -(-problem.cols // covered_cols)
        hardware = casts_in_hardware(problem, limits)
        return [
            Rule(
                "powers of two",
                ~powers,
                lambda i: (
                    f"block_rows {tile_rows[i]}, block_cols {tile_cols[i]}, num_warps {warps[i]}: "
                    "each must be a power of two"
                ),
            ),
            Rule(
                "threads",
                threads > MAX_THREADS,
                lambda i: f"{warps[i]} warps are {threads[i]} threads > {MAX_THREADS}",
            ),
            Rule(
                "tile size",
                elements > MAX_TILE_ELEMENTS,
                lambda i: f"tile of {elements[i]} elements > {MAX_TILE_ELEMENTS}",
            ),
            Rule(
                "whole blocks",
                ~(whole | fits),
                lambda i: (
                    f"tile {tile_rows[i]}x{tile_cols[i]} neither consists of whole "
                    f"{block_rows}x{block_cols} blocks nor lies within one"
                ),
            ),
            Rule(
                "registers",
                (registers > MAX_REGISTERS) | (registers * threads > limits.registers_per_sm),
                lambda i: (
                    f"about {registers[i]} registers x {threads[i]} threads > {MAX_REGISTERS} "
                    f"a thread or {limits.registers_per_sm} on {limits.gpu}"
                ),
            ),
            Rule(
                "shared memory",
                smem > limits.smem_bytes_per_cta,
                lambda i: f"smem {smem[i]} B > {limits.smem_bytes_per_cta} B on {limits.gpu}",
            ),
            Rule(
                "stages",
                (stages < 1) | ((stages > 1) & ~loops),
                lambda i: f"num_stages {stages[i]}: without a loop through the block it must be 1",
            ),
            Rule(
                "cast",
                ~software & (not hardware),
                lambda i: (
                    f"{limits.gpu} has no instruction that rounds to {problem.target.element}: "
                    "set software_cast"
                ),
            ),
            Rule(
                "programs",
                programs > MAX_PROGRAMS,
                lambda i: f"{programs[i]} programs > {MAX_PROGRAMS}",
            ),
        ]

    @staticmethod
    def _coverage(
        problem: Quantize, table: ConfigTable
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Tiles that consist of whole blocks, that lie within one, that must step through one."""
        tile_rows, tile_cols = table["block_rows"], table["block_cols"]
        block_rows, block_cols = extents_of(problem)
        everywhere = np.ones(len(table), bool)
        if is_tensor(problem):
            return everywhere, ~everywhere, ~everywhere
        if is_row(problem):
            return ~everywhere, everywhere, tile_cols < block_cols
        padded_rows, padded_cols = next_power_of_two(block_rows), next_power_of_two(block_cols)
        whole = (
            (padded_rows == block_rows)
            & (padded_cols == block_cols)
            & (tile_rows % block_rows == 0)
            & (tile_cols % block_cols == 0)
        )
        fits = (tile_rows <= padded_rows) & (tile_cols <= padded_cols)
        covers = (tile_rows == padded_rows) & (tile_cols == padded_cols)
        return whole, fits, ~whole & ~covers

    def default(self, problem: Problem, limits: Limits) -> TritonQuantizeConfig:
        assert isinstance(problem, Quantize)
        rows, cols = (next_power_of_two(extent) for extent in extents_of(problem))
        extents = extents_of(problem)
        if is_tensor(problem):
            tile_rows, tile_cols = 1, 8192
        elif is_row(problem):
            tile_cols = min(max(cols, 32), 8192)
            tile_rows = min(16, max(1, 4096 // tile_cols))
        elif (rows, cols) == extents and rows * cols <= 16384:
            tile_rows = rows
            tile_cols = max(cols, min(8192, 4096 // rows, next_power_of_two(problem.cols)))
        else:
            tile_cols = min(cols, 1024)
            tile_rows = min(rows, max(1, 8192 // tile_cols))
        # 32 elements a thread: two or four 16-byte loads in flight, at about 64 registers.
        warps = min(max(tile_rows * tile_cols // (32 * limits.warp_threads), 1), 8)
        return TritonQuantizeConfig(
            block_rows=tile_rows,
            block_cols=tile_cols,
            num_warps=warps,
            num_stages=1,
            software_cast=not casts_in_hardware(problem, limits),
        )

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "triton" / "quantize_blocks.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.quantize_workload import QuantizeWorkload

        assert isinstance(problem, Quantize)
        return QuantizeWorkload(problem, device=device, seed=seed)
