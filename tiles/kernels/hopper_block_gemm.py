"""Descriptor of the Hopper GEMM whose scales change along K on both sides, in CUDA C++."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.first_legal import first_legal
from tiles.kernels.hopper_block_rules import (
    RUNS,
    SCALES,
    block_rules,
    block_scales,
    may_run_on,
    scales_of,
)
from tiles.kernels.hopper_rules import (
    STAGE_BYTES,
    compile_hopper,
    product_refusal,
    row_refusal,
)
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm, Problem

__all__ = ["HopperBlockGemm", "HopperBlockGemmConfig"]

OPERANDS = ("e4m3fn", "e5m2", "int8", "mxint8")
PLAIN_OUTPUTS = ("bf16", "fp16", "fp32")
CODED_OUTPUTS = (
    "int8.b32x32",
    "int8.b64x64",
    "int8.b128x128",
    "int8.b32x32+sr",
    "int8.b64x64+sr",
    "int8.b128x128+sr",
    "e4m3fn.b32x32",
    "e4m3fn.b64x64",
    "e4m3fn.b128x128",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperBlockGemmConfig(TileConfig):
    """One configuration of the Hopper GEMM with scales in blocks."""

    block_m: int  #: tile rows: 128, or 256 where every row has scales of its own
    block_n: int  #: tile columns
    stages: int  #: tiles of A and B in flight
    cluster: int  #: CTAs, neighbours along M, that share each tile of B by multicast
    group_m: int  #: raster group: cluster rows visited before moving along N
    store_buffers: int  #: staging buffers of a warpgroup, 8 KiB each
    consumers: int  #: warpgroups that multiply: 2, or 4 with 64 x 64 of the tile each
    sets: int  #: accumulators of a warpgroup: with 2 one is promoted while the other is filled
    parts: int  #: pieces of a set that are multiplied and promoted one by one
    spread: bool  #: sums of a piece may stand among the products behind it
    #: 1: integer sums of every unit are converted, exactly; more: they start as a float's bits,
    #: run on over so many units of a set, and are multiplied by differences of scales
    run: int = 1


class HopperBlockGemm(Kernel):
    """``tiles/kernels/cuda/gemm_hopper_blocks.cu``: scales along K in steps from 32 on, both sides.

    Its output may be codes and scales.  Capability 9.0 alone.
    """

    name: ClassVar[str] = "hopper_block_gemm"
    backend: ClassVar[Backend] = Backend.CUPY
    config_type: ClassVar[type[TileConfig]] = HopperBlockGemmConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if reason := product_refusal(self.name, problem, limits, OPERANDS):
            return reason
        assert isinstance(problem, Gemm)
        a, b = problem.recipe.activation, problem.recipe.weight
        if block_scales(a, b) is None:
            return (
                f"{self.name} takes scales of one shape of {', '.join(SCALES)} on both sides, "
                f"not {a} by {b}"
            )
        if problem.out not in (*PLAIN_OUTPUTS, *CODED_OUTPUTS):
            known = ", ".join((*PLAIN_OUTPUTS, *CODED_OUTPUTS))
            return f"{self.name} writes {known}, not {problem.out}"
        return row_refusal(problem, problem.output.element.name)

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        assert isinstance(problem, Gemm)
        return ConfigTable.product(
            HopperBlockGemmConfig,
            block_m=(128, 256),
            block_n=(64, 128),
            stages=(3, 4, 5, 6, 7, 8),
            cluster=(1, 2),
            group_m=(1, 4, 8, 16),
            store_buffers=(1, 2),
            consumers=(2, 4),
            sets=(1, 2),
            parts=(1, 2),
            spread=(False, True),
            run=(1, *RUNS) if may_run_on(problem) else (1,),
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        assert isinstance(problem, Gemm)
        return block_rules(problem, table, limits)

    def default(self, problem: Problem, limits: Limits) -> HopperBlockGemmConfig:
        """Tiles of 128 x 128, two sets of accumulators, in parts where units are short."""
        assert isinstance(problem, Gemm)
        quant_k = SCALES[scales_of(problem)][1]
        return first_legal(
            self,
            problem,
            limits,
            (
                HopperBlockGemmConfig(
                    block_m=128,
                    block_n=n,
                    stages=stages,
                    cluster=1,
                    group_m=8 if problem.m > 128 and problem.n > n else 1,
                    store_buffers=1,
                    consumers=2,
                    sets=2,
                    parts=1 if quant_k == STAGE_BYTES else 2,
                    spread=quant_k == 32,
                )
                for n in (128, 64)
                for stages in (5, 4, 3)
            ),
        )

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "gemm_hopper_blocks.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.cuda import gemm_hopper_blocks

        assert isinstance(problem, Gemm)
        assert isinstance(config, HopperBlockGemmConfig)
        scales, fields = scales_of(problem), config.to_dict()
        return compile_hopper(
            self.template.with_suffix(".cu"),
            gemm_hopper_blocks.options(
                element=problem.recipe.activation.element.name,
                out=problem.out,
                scales=scales,
                config=fields,
            ),
            limits,
            threads=gemm_hopper_blocks.threads(fields),
            dynamic_smem_bytes=gemm_hopper_blocks.smem_bytes(scales=scales, config=fields),
            stages=config.stages,
        )

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.hopper_block_workload import HopperBlockWorkload

        assert isinstance(problem, Gemm)
        return HopperBlockWorkload(problem, device=device, seed=seed)
