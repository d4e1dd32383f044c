"""Descriptor of the transposition of 8-bit codes."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiles.kernels.base import Limits, NumericPath, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.tile_rules import tile_rules
from tiles.kernels.triton_kernel import TritonKernel
from tiles.problems import Problem, Transpose

__all__ = ["TritonTranspose", "TritonTransposeConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonTransposeConfig(TileConfig):
    """One configuration of the transposition kernel."""

    block_rows: int  #: tile rows of one program, elements
    block_cols: int  #: tile columns of one program, elements
    num_warps: int


class TritonTranspose(TritonKernel):
    """``tiles/kernels/triton/transpose_codes.py``: any extents."""

    name: ClassVar[str] = "triton_transpose"
    config_type: ClassVar[type[TileConfig]] = TritonTransposeConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Transpose):
            return f"{self.name} serves transpose problems, not {problem}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            TritonTransposeConfig,
            block_rows=[32, 64, 128, 256],
            block_cols=[32, 64, 128, 256],
            num_warps=[1, 2, 4, 8, 16],
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Transpose)
        shape = (problem.rows, problem.cols)
        # Codes stay bytes: a thread holds four in a register.
        return tile_rules(table, limits, shape=shape, transposed=True, thread_elements=(8, 128))

    def default(self, problem: Problem, limits: Limits) -> TritonTransposeConfig:
        # Rows of 128 bytes on both sides.
        warps = 4 * 32 // limits.warp_threads
        return TritonTransposeConfig(block_rows=128, block_cols=128, num_warps=warps)

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "triton" / "transpose_codes.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.transpose_workload import TransposeWorkload

        assert isinstance(problem, Transpose)
        return TransposeWorkload(problem, device=device, seed=seed)
