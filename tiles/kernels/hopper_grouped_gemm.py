"""Descriptor of the grouped Hopper GEMM in CUDA C++: which configurations are legal."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.kernels.first_legal import first_legal
from tiles.kernels.grouped_gemm import expert_gemm
from tiles.kernels.hopper_gemm import (
    HopperGemm,
    HopperGemmConfig,
    hopper_facts,
    hopper_smem_bytes,
    scale_mode,
)
from tiles.kernels.hopper_rules import shared_memory_rule
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import GroupedGemm, Problem, RowOrder

__all__ = ["HopperGroupedGemm"]

#: Modes that groups have, and experts whose table fits shared memory; as the launcher says.
SCALES = ("none", "row", "b1x128")
MAX_GROUPS = 1024
#: As ``cuda/hopper_grid.py`` has it, which may not be imported here.
MAX_EXTENT = 2**31 - 1024


class HopperGroupedGemm(Kernel):
    """``tiles/kernels/cuda/gemm_hopper.cu`` with GROUPS: contiguous, padded and masked rows."""

    name: ClassVar[str] = "hopper_grouped_gemm"
    backend: ClassVar[Backend] = Backend.CUPY
    config_type: ClassVar[type[TileConfig]] = HopperGemmConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, GroupedGemm):
            return f"{self.name} serves grouped_gemm problems, not {problem}"
        if reason := HopperGemm().refusal(expert_gemm(problem), limits):
            return reason
        if problem.layout.order is RowOrder.GATHERED:
            return f"{self.name}: the copy engine fetches tiles of neighbouring rows, not gathered"
        mode = scale_mode(problem.recipe.activation, problem.recipe.weight)
        if mode not in SCALES:
            return f"{self.name} has scales {', '.join(SCALES)}, not {mode}"
        if problem.experts > MAX_GROUPS:
            return f"{problem.experts} experts > {MAX_GROUPS}"
        together = {"rows of A": problem.a_rows, "experts x N": problem.experts * problem.n}
        for name, extent in together.items():
            if extent > MAX_EXTENT:
                return f"{name} {extent} > {MAX_EXTENT}: the kernel's coordinates have 31 bits"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return HopperGemm().space(problem, limits)

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        """Those of the plain product with an expert's mean rows, and room for the groups' table."""
        assert isinstance(problem, GroupedGemm)
        single = expert_gemm(problem)
        smem = hopper_smem_bytes(single, table, groups=problem.experts)
        shared = shared_memory_rule(smem, limits)
        rules = HopperGemm().rules(single, table, limits)
        return [shared if rule.name == shared.name else rule for rule in rules]

    def default(self, problem: Problem, limits: Limits) -> HopperGemmConfig:
        """The plain product's, with fewer stages where the groups' table needs their room."""
        assert isinstance(problem, GroupedGemm)
        config = HopperGemm().default(expert_gemm(problem), limits)
        fewer = (replace(config, stages=stages) for stages in range(config.stages, 1, -1))
        return first_legal(self, problem, limits, fewer)

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "cuda" / "gemm_hopper_grouped.py"

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        assert isinstance(problem, GroupedGemm)
        assert isinstance(config, HopperGemmConfig)
        return hopper_facts(expert_gemm(problem), config, limits, groups=problem.experts)

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.hopper_grouped_workload import HopperGroupedWorkload

        assert isinstance(problem, GroupedGemm)
        return HopperGroupedWorkload(problem, device=device, seed=seed)
