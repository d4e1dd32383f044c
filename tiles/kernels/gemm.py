"""Descriptor of the scaled GEMM in Triton: its configurations and which of them are legal."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiles.formats import IntElement, element
from tiles.kernels.base import Backend, Kernel, Limits, NumericPath, TileConfig, Workload
from tiles.problems import Gemm, Problem

__all__ = ["GemmConfig", "TritonGemm"]

#: 127 · 127 · K must stay below 2^31 for an exact int32 accumulator.
MAX_INT32_K = (2**31 - 1) // (127 * 127)


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmConfig(TileConfig):
    """One configuration of the scaled GEMM."""

    block_m: int  #: CTA tile rows, elements
    block_n: int  #: CTA tile columns, elements
    block_k: int  #: depth of one K-iteration, elements
    group_m: int  #: raster group: tiles along M visited before moving along N
    num_warps: int
    num_stages: int  #: depth of the shared-memory pipeline
    tma: bool  #: loads and the store go through tensor-memory-access descriptors
    persistent: bool  #: one CTA per multiprocessor walks over the tiles


class TritonGemm(Kernel):
    """``tiles/kernels/triton/gemm_scaled.py``: plain, tensor, row and block scaled products."""

    name: ClassVar[str] = "triton_gemm"
    backend: ClassVar[Backend] = Backend.TRITON
    config_type: ClassVar[type[TileConfig]] = GemmConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Gemm):
            return f"{self.name} serves gemm problems, not {problem}"
        formats = (problem.recipe.activation, problem.recipe.weight)
        if isinstance(formats[0].element, IntElement) and problem.k > MAX_INT32_K:
            blockwise = problem.recipe.blockwise
            if not blockwise:
                return f"K {problem.k} > {MAX_INT32_K}: the int32 accumulator could overflow"
        # Elements without a tensor-core path are decoded to fp16, which holds every 8-bit float.
        for fmt in formats:
            if fmt.element.name not in limits.native_elements and fmt.element.bits != 8:
                return f"{fmt.element} has no path on {limits.gpu}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        assert isinstance(problem, Gemm)
        elements = {problem.recipe.activation.element.name, problem.recipe.weight.element.name}
        native = elements <= limits.native_elements
        return NumericPath.NATIVE if native else NumericPath.EMULATED

    def space(self, problem: Problem, limits: Limits) -> Iterator[GemmConfig]:
        axes = itertools.product(
            (16, 32, 64, 128, 256),  # block_m
            (16, 32, 64, 128, 256),  # block_n
            (32, 64, 128, 256),  # block_k
            (1, 8),  # group_m
            (4, 8),  # num_warps
            (2, 3, 4, 5, 6),  # num_stages
            (False, True),  # tma
            (False, True),  # persistent
        )
        for m, n, k, group, warps, stages, tma, persistent in axes:
            yield GemmConfig(
                block_m=m,
                block_n=n,
                block_k=k,
                group_m=group,
                num_warps=warps,
                num_stages=stages,
                tma=tma,
                persistent=persistent,
            )

    def illegality(self, problem: Problem, config: TileConfig, limits: Limits) -> str | None:
        assert isinstance(problem, Gemm)
        assert isinstance(config, GemmConfig)
        raise AssertionError("to be written")

    def default(self, problem: Problem, limits: Limits) -> GemmConfig:
        raise AssertionError("to be written")

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "triton" / "gemm_scaled.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.gemm_workload import GemmWorkload

        assert isinstance(problem, Gemm)
        return GemmWorkload(problem, device=device, seed=seed)
