"""Descriptor of Hopper's weight-only product for many rows: what it serves, its configurations."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiles.kernels.base import Limits, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.first_legal import first_legal
from tiles.kernels.hopper_rules import compile_hopper
from tiles.kernels.hopper_weight_kernel import HopperWeightKernel
from tiles.kernels.hopper_weight_prefill_rules import BLOCK_M, BLOCK_N, CLUSTERS, prefill_rules
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm, Problem

__all__ = ["HopperWeightPrefill", "HopperWeightPrefillConfig"]

#: Rows of activations that it is for: of fewer, tiles are mostly empty.
LEAST_ROWS = 64
#: Multiprocessors that a default's tiles are to fill.
_FULL = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperWeightPrefillConfig(TileConfig):
    """One configuration of Hopper's weight-only product for many rows."""

    block_m: int  #: rows of X in a tile: the wide side of the tensor cores' instruction
    block_n: int  #: rows of W in a tile, half of them a warpgroup's
    stages: int  #: of 64 columns of X in flight, with the panels of W that they meet
    cluster: int  #: CTAs, neighbours along N, that share each tile of X by multicast
    group_m: int  #: raster group: rows of tiles visited before moving along N
    store_buffers: int  #: staging buffers of a warpgroup, 8 KiB each


class HopperWeightPrefill(HopperWeightKernel):
    """``tiles/kernels/cuda/gemm_hopper_weight_prefill.cu``: many 16-bit rows by packed weights.

    Capability 9.0 alone.
    """

    name: ClassVar[str] = "hopper_weight_prefill"
    config_type: ClassVar[type[TileConfig]] = HopperWeightPrefillConfig

    def rows_refusal(self, m: int) -> str | None:
        if m >= LEAST_ROWS:
            return None
        return f"M {m}: {self.name} is for {LEAST_ROWS} rows of activations and more"

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            HopperWeightPrefillConfig,
            block_m=BLOCK_M,
            block_n=BLOCK_N,
            stages=(3, 4, 5, 6, 7, 8, 10, 12),
            cluster=CLUSTERS,
            group_m=(1, 4, 8, 16),
            store_buffers=(1, 2),
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Gemm)
        return prefill_rules(problem, table, limits)

    def default(self, problem: Problem, limits: Limits) -> HopperWeightPrefillConfig:
        """The largest tiles that still fill a GPU; clusters where two have neighbours along N.

        Tiles of 256 x 128 won every product of 2048 rows on an H200.
        """
        assert isinstance(problem, Gemm)

        def fills(m: int, n: int) -> bool:
            return -(-problem.m // m) * -(-problem.n // n) >= _FULL

        shapes = ((256, 128), (128, 128), (64, 128))
        most = [shape for shape in shapes if fills(*shape)]
        return first_legal(
            self,
            problem,
            limits,
            (
                HopperWeightPrefillConfig(
                    block_m=m,
                    block_n=n,
                    stages=stages,
                    cluster=2 if problem.n > n else 1,
                    group_m=8 if problem.m > m and problem.n > 2 * n else 1,
                    store_buffers=1,
                )
                for m, n in (*most, *reversed(shapes))
                for stages in (8, 7, 6, 5, 4, 3)
            ),
        )

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "gemm_hopper_weight_prefill.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.cuda import gemm_hopper_weight_prefill as launcher

        assert isinstance(problem, Gemm)
        assert isinstance(config, HopperWeightPrefillConfig)
        formats, fields = self.weight_formats(problem), config.to_dict()
        element, out = problem.recipe.activation.element.name, problem.out
        return compile_hopper(
            self.template.with_suffix(".cu"),
            launcher.options(element=element, out=out, config=fields, **formats),
            limits,
            threads=launcher.THREADS,
            dynamic_smem_bytes=launcher.smem_bytes(out=out, config=fields, **formats),
            stages=config.stages,
        )

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.hopper_weight_prefill_workload import HopperWeightPrefillWorkload

        assert isinstance(problem, Gemm)
        return HopperWeightPrefillWorkload(problem, device=device, seed=seed)
