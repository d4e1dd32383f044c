"""Kernel families of another distribution, and that distribution on a path."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

import sim
from tiles.kernels import (
    Backend,
    ConfigTable,
    Kernel,
    Limits,
    NumericPath,
    Rule,
    TileConfig,
    Workload,
)
from tiles.kernels.compile_facts import CompileFacts
from tiles.problems import Gemm, Problem
from tiles.recipes import recipe

__all__ = ["PluginConfig", "PricedPlugin", "UnpricedPlugin", "offer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConfig(TileConfig):
    """A field of its own; none of the workbench's."""

    rows: int


class UnpricedPlugin(Kernel):
    """bf16 products, without a cost model."""

    name: ClassVar[str] = "plugin"
    backend: ClassVar[Backend] = Backend.HOST
    config_type: ClassVar[type[TileConfig]] = PluginConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Gemm):
            return f"plugin serves gemm problems, not {problem}"
        return None if problem.recipe == recipe("bf16") else "plugin serves bf16 alone"

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(PluginConfig, rows=[1, 2, 4])

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        return []

    def default(self, problem: Problem, limits: Limits) -> TileConfig:
        return PluginConfig(rows=1)

    @property
    def template(self) -> Path:
        return Path(__file__)

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        raise NotImplementedError


class PricedPlugin(UnpricedPlugin):
    """The same with a cost model, which promises a hundredth of a microsecond a row."""

    name: ClassVar[str] = "plugin_priced"

    def cost(
        self, problem: Problem, table: ConfigTable, gpu: sim.Gpu, facts: Mapping[int, CompileFacts]
    ) -> sim.Cost:
        time_us = 0.01 * table["rows"]
        none = np.zeros(len(table))
        return sim.Cost(
            time_us=time_us,
            terms_us={"luck": time_us},
            dram_read_bytes=none,
            dram_write_bytes=none,
            l2_read_bytes=none,
        )


def offer(folder: Path, *targets: str, group: str = "tile_workbench.kernels") -> Path:
    """Install a distribution that names objects under an entry point group; the folder."""
    info = folder / "plugin_kernels-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-kernels\nVersion: 1.0\n")
    lines = [f"entry{index} = {target}" for index, target in enumerate(targets)]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    return folder
