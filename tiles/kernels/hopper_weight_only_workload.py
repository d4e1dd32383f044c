"""Hopper's weight-only product opened on a device: torch operands handed to the CUDA launcher."""

from collections.abc import Callable
from dataclasses import replace

import torch

from tiles.kernels.accuracy import compare
from tiles.kernels.arithmetic import Arithmetic
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import gemm_hopper_weight_only as launcher
from tiles.kernels.cuda.hopper_weight_operands import COUNTED_TILES
from tiles.kernels.cuda.launches import multiprocessors
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.hopper_weight_only_rules import panels_of
from tiles.kernels.hopper_weight_workload import HopperWeightWorkload
from tiles.kernels.weight_only_resources import PANEL_BYTES, halves
from tiles.kernels.weight_only_workload import Operands

__all__ = ["HopperWeightOnlyWorkload"]


class HopperWeightOnlyWorkload(HopperWeightWorkload):
    """Operands and check of :mod:`tiles.kernels.weight_only_workload`.

    Every panel (64 bytes of a row) or half of it, or every group of fewer columns, is summed by
    itself and added in fp32: a scaled sum costs one rounding of the three that the bound grants,
    parts of groups of warps and of CTAs, of a panel at least, another one.
    """

    def _workspace(self, config: TileConfig) -> torch.Tensor | None:
        """Counters of zero, and NaN where partial sums go: what is not written shows."""
        problem = self.problem
        count = multiprocessors(torch.device(self.device).index or 0)
        words = launcher.workspace_words(
            problem.m, problem.n, panels_of(problem), config.to_dict(), count
        )
        if not words:
            return None
        workspace = torch.full((words,), -1, dtype=torch.int32, device=self.device)
        workspace[:COUNTED_TILES] = 0
        return workspace

    def _launcher(self, operands: Operands, config: TileConfig) -> Callable[[], None]:
        arguments, workspace = self._arguments(operands, config), self._workspace(config)
        view = None if workspace is None else cupy_view(workspace)

        def run() -> None:
            launcher.launch(**arguments, workspace=view, stream=cupy_stream(self.device))

        return run

    def arithmetic(self, *, fold: bool) -> Arithmetic:
        found = super().arithmetic(fold=fold)
        panel = PANEL_BYTES * halves(self.problem.recipe.weight)
        return replace(found, promote_k=min(panel, found.promote_k or panel))

    def check(self, config: TileConfig) -> Accuracy:
        self.operands.c.fill_(float("nan"))
        self._launcher(self.operands, config)()
        return compare(self.operands.c, self.reference(fold=False))

    def compile(self, config: TileConfig) -> None:
        launcher.precompile(**self._blank_arguments(config))
