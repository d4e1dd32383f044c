"""Descriptor of the Hopper product of MX operands whose scales are aligned first, in CUDA C++."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.first_legal import first_legal
from tiles.kernels.hopper_gemm import CHAINED_N, CONSUMERS, MAX_ACCUMULATORS
from tiles.kernels.hopper_rules import (
    MAX_STAGES,
    STAGE_BYTES,
    STATIC_UNIT_BYTES,
    STORE_BYTES,
    compile_hopper,
    product_refusal,
    row_refusal,
    shared_memory_rule,
    walk_rules,
)
from tiles.kernels.hopper_skinny import MX, skinny_mode
from tiles.kernels.refusals import coded_output
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm, Problem

__all__ = ["HopperAlignedConfig", "HopperAlignedGemm", "aligned_smem_bytes"]

OPERANDS = ("e4m3fn", "e5m2")
BLOCK_M = (64 * CONSUMERS, 128 * CONSUMERS)
STORE_BUFFERS = (1, 2, 4)
#: Tiles of 256 x 128 that keep every multiprocessor busy for some two rounds.
MANY_TILES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperAlignedConfig(TileConfig):
    """One configuration: that of the product behind the alignment, which has none of its own.

    Products are chained, as ``hopper_gemm`` has it.
    """

    block_m: int  #: tile rows, shared by both consumer warpgroups
    block_n: int  #: tile columns
    stages: int  #: tiles of A and B in flight
    #: CTAs that share by multicast the larger of their tiles
    cluster: int
    group_m: int  #: raster group: cluster rows visited before moving along N
    store_buffers: int  #: staging buffers of a warpgroup, 8 KiB each


def aligned_smem_bytes(table: ConfigTable) -> NDArray[np.int64]:
    """Shared memory of a CTA by configuration, bytes; exact, the kernel lays it out itself."""
    m, n, stages = table["block_m"], table["block_n"], table["stages"]
    scales = -(-stages * (-(-(m + n) * 4 // 128) * 128) // 1024) * 1024
    staging = CONSUMERS * table["store_buffers"] * STORE_BYTES
    static = -(-16 * stages // STATIC_UNIT_BYTES) * STATIC_UNIT_BYTES  # barriers
    total: NDArray[np.int64] = static + stages * (m + n) * STAGE_BYTES + scales + staging
    return total


class HopperAlignedGemm(Kernel):
    """``tiles/kernels/cuda/gemm_hopper_aligned.py``: MX scales brought to 1x128, then a product.

    Capability 9.0 alone.
    """

    name: ClassVar[str] = "hopper_aligned_gemm"
    backend: ClassVar[Backend] = Backend.CUPY
    config_type: ClassVar[type[TileConfig]] = HopperAlignedConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if isinstance(problem, Gemm) and (reason := coded_output(self.name, problem)):
            return reason
        if reason := product_refusal(self.name, problem, limits, OPERANDS):
            return reason
        assert isinstance(problem, Gemm)
        a, b = problem.recipe.activation, problem.recipe.weight
        if skinny_mode(a, b) != MX:
            return f"{self.name} aligns E8M0 scales of 1x32 on both sides, not {a} by {b}"
        return row_refusal(problem, problem.out)

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            HopperAlignedConfig,
            block_m=BLOCK_M,
            block_n=CHAINED_N,
            stages=(3, 4, 5, 6, 7, 8),
            cluster=(1, 2),
            group_m=(1, 4, 8, 16),
            store_buffers=STORE_BUFFERS,
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Gemm)
        m, n, stages, cluster = (table[f] for f in ("block_m", "block_n", "stages", "cluster"))
        group, buffers = table["group_m"], table["store_buffers"]
        held = m // CONSUMERS * n // 128
        return [
            Rule(
                "tile shape",
                ~np.isin(m, BLOCK_M) | ~np.isin(n, CHAINED_N),
                lambda r: (
                    f"tile {m[r]}x{n[r]}: it takes {', '.join(map(str, BLOCK_M))} rows and "
                    f"{', '.join(map(str, CHAINED_N))} columns"
                ),
            ),
            Rule(
                "counts",
                (stages < 2)
                | (stages > MAX_STAGES)
                | ~np.isin(cluster, (1, 2))
                | ~np.isin(buffers, STORE_BUFFERS)
                | (group < 1),
                lambda r: (
                    f"stages {stages[r]}, cluster {cluster[r]}, store_buffers {buffers[r]}, "
                    f"group_m {group[r]}: they lie in 2..8, are 1 or 2, 1, 2 or 4, and from 1"
                ),
            ),
            Rule(
                "registers",
                held > MAX_ACCUMULATORS,
                lambda r: f"{held[r]} accumulators a thread > {MAX_ACCUMULATORS}",
            ),
            shared_memory_rule(aligned_smem_bytes(table), limits),
            *walk_rules(problem, table, BLOCK_M[0]),
        ]

    def default(self, problem: Problem, limits: Limits) -> HopperAlignedConfig:
        """Tiles of 256 x 128 where there are many, else of 128 rows."""
        assert isinstance(problem, Gemm)
        many = -(-problem.m // 256) * -(-problem.n // 128) >= MANY_TILES
        return first_legal(
            self,
            problem,
            limits,
            (
                HopperAlignedConfig(
                    block_m=m,
                    block_n=n,
                    stages=stages,
                    cluster=1,
                    group_m=8 if problem.m > m and problem.n > n else 1,
                    store_buffers=1,
                )
                for m, n in (*(((256, 128),) if many else ()), (128, 128), (128, 64))
                for stages in (5, 4, 3)
            ),
        )

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "gemm_hopper_aligned.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        """Facts of the product; the alignment is compiled, and lies ready, as well."""
        from tiles.kernels.cuda import align_mx_scales, gemm_hopper, gemm_hopper_aligned

        assert isinstance(problem, Gemm)
        assert isinstance(config, HopperAlignedConfig)
        name, fields = problem.recipe.activation.element.name, config.to_dict()
        folder = Path(gemm_hopper.__file__).parent
        compile_hopper(
            folder / align_mx_scales.SOURCE,
            align_mx_scales.options(name),
            limits,
            threads=align_mx_scales.THREADS,
            dynamic_smem_bytes=0,
            stages=1,
        )
        return compile_hopper(
            Path(gemm_hopper.__file__).with_suffix(".cu"),
            gemm_hopper_aligned.options(element=name, out=problem.out, scales=MX, config=fields),
            limits,
            threads=gemm_hopper_aligned.THREADS,
            dynamic_smem_bytes=gemm_hopper_aligned.smem_bytes(scales=MX, config=fields),
            stages=config.stages,
        )

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.hopper_aligned_workload import HopperAlignedWorkload

        assert isinstance(problem, Gemm)
        return HopperAlignedWorkload(problem, device=device, seed=seed)
