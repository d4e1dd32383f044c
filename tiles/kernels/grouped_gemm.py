"""Descriptor of the grouped GEMM in Triton: its configurations and which of them are legal."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np

from tiles.kernels.base import Limits, NumericPath, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.dense_view import b_scale_rule, dense_rules, dense_smem_bytes
from tiles.kernels.first_legal import first_legal
from tiles.kernels.gemm import TritonGemm
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.triton_kernel import TritonKernel
from tiles.problems import Gemm, GroupedGemm, Problem

__all__ = ["GroupedGemmConfig", "TritonGroupedGemm", "expert_gemm"]

#: Experts that every program counts the tiles of, in registers.
MAX_EXPERTS = 4096
#: What a thread needs beside its accumulators and their promoted products.
_OTHER_REGISTERS = 40
#: Shared memory that the system keeps for itself a CTA (CUDA C++ programming guide).
_SYSTEM_SMEM_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedGemmConfig(TileConfig):
    """One configuration of the grouped GEMM."""

    block_m: int  #: CTA tile rows, elements
    block_n: int  #: CTA tile columns, elements
    block_k: int  #: depth of one K-iteration, elements
    group_m: int  #: raster group: tiles along an expert's rows visited before moving along N
    num_warps: int
    num_stages: int  #: depth of the shared-memory pipeline
    ctas_per_sm: int  #: programs on a multiprocessor that walk over the tiles side by side
    tma: bool  #: B, and A unless gathered, are loaded through tensor-memory-access descriptors


def expert_gemm(problem: GroupedGemm) -> Gemm:
    """The product of an expert with a mean number of rows."""
    return problem.single(-(-problem.m // problem.experts))


class TritonGroupedGemm(TritonKernel):
    """``tiles/kernels/triton/gemm_grouped.py``: contiguous, padded, masked and gathered rows."""

    name: ClassVar[str] = "triton_grouped_gemm"
    config_type: ClassVar[type[TileConfig]] = GroupedGemmConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, GroupedGemm):
            return f"{self.name} serves grouped_gemm problems, not {problem}"
        if reason := TritonGemm().refusal(expert_gemm(problem), limits):
            return reason
        scaling = problem.recipe.activation.scaling
        if scaling is not None and (scaling.rows or 1) > 1:
            return f"{problem.recipe.activation}: blocks of rows would straddle experts"
        if problem.experts > MAX_EXPERTS:
            return f"{problem.experts} experts > {MAX_EXPERTS}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        assert isinstance(problem, GroupedGemm)
        return TritonGemm().path(expert_gemm(problem), limits)

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            GroupedGemmConfig,
            block_m=(16, 32, 64, 128, 256),
            block_n=(32, 64, 128, 256),
            block_k=(32, 64, 128, 256),
            group_m=(1, 8),
            num_warps=(4, 8),
            num_stages=(2, 3, 4, 5, 6),
            ctas_per_sm=(1, 2, 3, 4),
            tma=(False, True),
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        """Those of a plain product with an expert's mean rows, and of programs side by side."""
        assert isinstance(problem, GroupedGemm)
        single = expert_gemm(problem)
        ctas = table["ctas_per_sm"]
        threads = table["num_warps"] * limits.warp_threads
        smem = dense_smem_bytes(single, table)
        held = table["block_m"] * table["block_n"] // np.maximum(threads, 1)
        held = held * (2 if single.recipe.blockwise else 1) + _OTHER_REGISTERS
        # Programs that do not fit together would run one after the other, over tiles all alike.
        apart = (ctas * (smem + _SYSTEM_SMEM_BYTES)) > (
            limits.smem_bytes_per_cta + _SYSTEM_SMEM_BYTES
        )
        apart |= ctas * threads * held > limits.registers_per_sm
        apart |= ctas * threads > limits.threads_per_sm
        return [
            *dense_rules(single, table, limits),
            b_scale_rule(single, table),
            Rule(
                "co-residence",
                (ctas < 1) | ((ctas > 1) & apart),
                lambda r: (
                    f"{ctas[r]} CTAs of {smem[r]} B and {threads[r]} x {held[r]} registers do not "
                    f"share a multiprocessor of {limits.gpu}"
                ),
            ),
        ]

    def default(self, problem: Problem, limits: Limits) -> GroupedGemmConfig:
        """Tiles of 128 columns, as high as an expert has rows; the first legal candidate.

        The last candidates are legal wherever the family serves at all.
        """
        assert isinstance(problem, GroupedGemm)
        single = expert_gemm(problem)
        eight_bit = single.recipe.activation.element.bits == 8
        depth = 128 if eight_bit else 64
        quant = [
            s.cols
            for s in (single.recipe.activation.scaling, single.recipe.weight.scaling)
            if s is not None and s.cols is not None
        ]
        tma = "tma" in limits.features
        # Two programs side by side hide each other's promotion; their tiles are half as high.
        high = single.m > 64 and not quant
        heights = (128, 64, 32, 16) if high else (64, 32, 16)
        candidates = (
            GroupedGemmConfig(
                block_m=block_m,
                block_n=block_n,
                block_k=block_k,
                group_m=1,
                num_warps=8 if block_m * block_n > 64 * 128 else 4,
                num_stages=stages,
                ctas_per_sm=2 if quant else 1,
                tma=with_tma,
            )
            for block_m, block_n in product(heights, (128, 64, 32))
            for block_k in (min([depth, *quant]), 32)
            for stages, with_tma in ((4, tma), (3, tma), (2, tma), (2, False))
        )
        return first_legal(self, problem, limits, candidates)

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "triton" / "gemm_grouped.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.grouped_workload import GroupedWorkload

        assert isinstance(problem, GroupedGemm)
        return GroupedWorkload(problem, device=device, seed=seed)

    def blank_workload(self, problem: Problem, limits: Limits) -> Workload:
        from tiles.kernels.grouped_workload import GroupedWorkload
        from tiles.kernels.offline_triton import META

        assert isinstance(problem, GroupedGemm)
        native = self.path(problem, limits) is NumericPath.NATIVE
        # The number of multiprocessors decides the grid alone, not what is compiled.
        return GroupedWorkload(problem, device=META, seed=0, decode=not native, num_sms=1)
