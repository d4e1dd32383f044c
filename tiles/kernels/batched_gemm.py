"""Descriptor of the batched GEMM in Triton: its configurations and which of them are legal."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiles.kernels.base import Limits, NumericPath, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.dense_view import b_scale_rule, dense_rules
from tiles.kernels.first_legal import first_legal
from tiles.kernels.gemm import TritonGemm
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.triton_kernel import TritonKernel
from tiles.problems import BatchedGemm, Problem, SecondOperand

__all__ = ["BatchedGemmConfig", "TritonBatchedGemm"]

#: Programs along the first dimension of a grid (CUDA C++ programming guide).
MAX_GRID = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedGemmConfig(TileConfig):
    """One configuration of the batched GEMM."""

    block_m: int  #: CTA tile rows, elements
    block_n: int  #: CTA tile columns, elements
    block_k: int  #: depth of one K-iteration, elements
    group_m: int  #: raster group: tiles along M visited before moving along N
    num_warps: int
    num_stages: int  #: depth of the shared-memory pipeline
    tma: bool  #: loads go through tensor-memory-access descriptors


class TritonBatchedGemm(TritonKernel):
    """``tiles/kernels/triton/gemm_batched.py``: the products of attention."""

    name: ClassVar[str] = "triton_batched_gemm"
    config_type: ClassVar[type[TileConfig]] = BatchedGemmConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, BatchedGemm):
            return f"{self.name} serves batched_gemm problems, not {problem}"
        if reason := TritonGemm().refusal(problem.single, limits):
            return reason
        tiles = -(-problem.m // 16) * -(-problem.n // 32) * problem.batch
        if tiles > MAX_GRID:
            return f"{problem.batch} matrices have up to {tiles} tiles: a grid has {MAX_GRID}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        assert isinstance(problem, BatchedGemm)
        return TritonGemm().path(problem.single, limits)

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            BatchedGemmConfig,
            block_m=(16, 32, 64, 128, 256),
            block_n=(32, 64, 128, 256),
            block_k=(32, 64, 128, 256),
            group_m=(1, 8),
            num_warps=(4, 8),
            num_stages=(1, 2, 3, 4, 5),
            tma=(False, True),
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        """Those of one plain product, and of descriptors over [K, N] matrices."""
        assert isinstance(problem, BatchedGemm)
        single = problem.single
        tma, block_k = table["tma"], table["block_k"]
        stored = problem.second is SecondOperand.KN
        row_bytes = problem.n * problem.recipe.weight.element.bits // 8
        beyond = (problem.k % block_k != 0) | (row_bytes % 16 != 0)
        return [
            *dense_rules(single, table, limits),
            b_scale_rule(single, table),
            # Behind a matrix of K rows lies the next one, not zeros.
            Rule(
                "second operand",
                tma & stored & beyond,
                lambda r: (
                    f"tma over [K, N] needs block_k {block_k[r]} to divide K {problem.k} and rows "
                    f"of multiples of 16 B, N takes {row_bytes} B"
                ),
            ),
        ]

    def default(self, problem: Problem, limits: Limits) -> BatchedGemmConfig:
        """Tiles of up to 128 x 128; the first legal candidate."""
        assert isinstance(problem, BatchedGemm)
        tma = "tma" in limits.features
        tiles = (
            (128, 128, 8),
            (64, 128, 4),
            (128, 64, 4),
            (64, 64, 4),
            (32, 64, 4),
            (16, 64, 4),
            (16, 32, 4),
        )
        candidates = (
            BatchedGemmConfig(
                block_m=block_m,
                block_n=block_n,
                block_k=block_k,
                group_m=1,
                num_warps=warps,
                num_stages=stages,
                tma=with_tma,
            )
            for block_m, block_n, warps in tiles
            for block_k in (128, 64, 32)
            for stages, with_tma in ((3, tma), (2, tma), (2, False))
        )
        return first_legal(self, problem, limits, candidates)

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "triton" / "gemm_batched.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.batched_workload import BatchedWorkload

        assert isinstance(problem, BatchedGemm)
        return BatchedWorkload(problem, device=device, seed=seed)

    def blank_workload(self, problem: Problem, limits: Limits) -> Workload:
        from tiles.kernels.batched_workload import BatchedWorkload
        from tiles.kernels.offline_triton import META

        assert isinstance(problem, BatchedGemm)
        native = self.path(problem, limits) is NumericPath.NATIVE
        return BatchedWorkload(problem, device=META, seed=0, decode=not native)
