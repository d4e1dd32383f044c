"""Descriptor of Hopper's weight-only product for few rows: what it serves, its configurations."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiles.kernels.base import Limits, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.first_legal import first_legal
from tiles.kernels.hopper_rules import compile_hopper
from tiles.kernels.hopper_weight_kernel import HopperWeightKernel
from tiles.kernels.hopper_weight_only_rules import (
    BLOCK_M,
    CLUSTERS,
    MAX_WARPS,
    WARP_ROWS,
    WARPS_K,
    capability_rules,
    panels_of,
    resource_rules,
    waste_rules,
    weight_smem_bytes,
)
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.weight_only_resources import PANEL_BYTES, group_columns, halves
from tiles.problems import Gemm, Problem

__all__ = ["HopperWeightOnly", "HopperWeightOnlyConfig"]

#: Rows of W in a tile: so many widths that the tiles of most layers fill whole waves.
BLOCK_N = (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448)
#: Rows of activations that it is for: beyond, products of one warp are what binds.
MOST_ROWS = 256
#: CTAs that a default aims at, and shared memory that their rings take together.
DEFAULT_CTAS, DEFAULT_RING_BYTES = 128, 200 * 1024
#: Rows of W below which two CTAs of a default share a tile: 4096 x 14336 took 11.5 us so, in tiles
#: of 32 rows 12.9 us (an H200; 16 stages, 32 took 12.3).
LOW_TILE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperWeightOnlyConfig(TileConfig):
    """One configuration of Hopper's weight-only product."""

    block_m: int  #: rows of X in a tile: the narrow side of the tensor cores' instruction
    block_n: int  #: rows of W in a tile
    warp_rows: int  #: of those, a warp's
    warps_k: int  #: groups of warps that take the panels of a tile in turn
    stages: int  #: panels in flight
    per_sm: int  #: CTAs a multiprocessor that share all panels evenly; 0: one cluster a tile
    cluster: int = (
        1  #: CTAs that share a tile's panels and add up through distributed shared memory
    )
    #: products by warpgroups, 64 rows of W at a time, for which X is read in shared memory;
    #: otherwise by warps, which load it to registers
    wgmma: bool = False


def _warp_rows(block_n: int, block_m: int) -> int:
    """Of a default's warp: 32 where there are many, so that they read activations less often."""
    return 32 if block_n >= 96 and block_n % 32 == 0 and block_m <= 32 else 16


class HopperWeightOnly(HopperWeightKernel):
    """``tiles/kernels/cuda/gemm_hopper_weight_only.cu``: few 16-bit rows by packed weights.

    Capability 9.0 alone.
    """

    name: ClassVar[str] = "hopper_weight_only"
    config_type: ClassVar[type[TileConfig]] = HopperWeightOnlyConfig

    def rows_refusal(self, m: int) -> str | None:
        if m <= MOST_ROWS:
            return None
        return f"M {m}: {self.name} is for up to {MOST_ROWS} rows of activations"

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            HopperWeightOnlyConfig,
            block_m=BLOCK_M,
            block_n=BLOCK_N,
            warp_rows=WARP_ROWS,
            warps_k=WARPS_K,
            stages=(4, 6, 8, 12, 16, 24, 32, 48),
            per_sm=(0, 1, 2, 3),
            cluster=CLUSTERS,
            wgmma=(False, True),
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Gemm)
        return [
            *capability_rules(problem, table),
            *resource_rules(problem, table, limits),
            *waste_rules(problem, table),
        ]

    @staticmethod
    def _by_warpgroups(problem: Gemm, block_m: int, block_n: int) -> bool:
        """Whether a default multiplies by warpgroups: at 32 rows an H200 took 12 to 26 % less."""
        group = group_columns(problem.recipe.weight)
        whole = group % (PANEL_BYTES * halves(problem.recipe.weight)) == 0
        return block_m >= 32 and block_n >= 64 and whole

    def default(self, problem: Problem, limits: Limits) -> HopperWeightOnlyConfig:
        """A tile of all rows, up to 64; tiles of W so tall that one or two waves hold them all.

        Where that makes them low two CTAs share one of twice the height.
        """
        assert isinstance(problem, Gemm)
        block_m = next((width for width in BLOCK_M if width >= problem.m), BLOCK_M[-1])
        columns = -(-problem.n // (DEFAULT_CTAS * max(1, -(-problem.n // (256 * DEFAULT_CTAS)))))
        panels = panels_of(problem)
        cluster = 2 if columns < LOW_TILE and problem.m <= block_m and panels > 1 else 1
        block_n = next((n for n in BLOCK_N if n >= cluster * columns), BLOCK_N[-1])
        wgmma = self._by_warpgroups(problem, block_m, block_n)
        if wgmma:
            block_n = max(64, min(block_n, 64 * MAX_WARPS // 4))
        tiles = -(-problem.m // block_m) * -(-problem.n // block_n)
        together = 1 if tiles <= DEFAULT_CTAS else 2

        def groups_of(width: int) -> int:
            """Groups of warps that share K: 16 warps of a multiprocessor, if K has so much."""
            warps = -(-width // 64) * 4 if wgmma else width // _warp_rows(width, block_m)
            most = MAX_WARPS // together // warps
            return max((g for g in WARPS_K if g <= most and 2 * g * cluster <= panels), default=1)

        configs = [
            HopperWeightOnlyConfig(
                block_m=block_m,
                block_n=width,
                warp_rows=16 if wgmma else _warp_rows(width, block_m),
                warps_k=groups,
                stages=stages,
                per_sm=0,
                cluster=cluster,
                wgmma=wgmma,
            )
            for width in ((block_n, 64) if wgmma else (block_n, 64, 32, 16))
            for groups in dict.fromkeys((groups_of(width), 1))
            for stages in (16, 12, 8, 6, 4, 3, 2)
        ]
        small = weight_smem_bytes(problem, ConfigTable.of(configs)) <= DEFAULT_RING_BYTES / together
        fitting = [c for c, fits in zip(configs, small, strict=True) if fits or c.stages <= 4]
        return first_legal(self, problem, limits, fitting)

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "gemm_hopper_weight_only.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.cuda import gemm_hopper_weight_only as launcher

        assert isinstance(problem, Gemm)
        assert isinstance(config, HopperWeightOnlyConfig)
        formats, fields = self.weight_formats(problem), config.to_dict()
        element, out = problem.recipe.activation.element.name, problem.out
        return compile_hopper(
            self.template.with_suffix(".cu"),
            launcher.options(element=element, out=out, config=fields, **formats),
            limits,
            threads=launcher.threads(fields),
            dynamic_smem_bytes=launcher.smem_bytes(config=fields, **formats),
            stages=config.stages,
        )

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.hopper_weight_only_workload import HopperWeightOnlyWorkload

        assert isinstance(problem, Gemm)
        return HopperWeightOnlyWorkload(problem, device=device, seed=seed)
