"""Descriptor of weight-only products in Triton: what it serves, its configurations, its rules."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tiles.formats import TensorFormat
from tiles.kernels.base import Limits, NumericPath, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.first_legal import first_legal
from tiles.kernels.refusals import coded_output
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.tile_rules import next_power_of_two
from tiles.kernels.triton_kernel import TritonKernel
from tiles.kernels.weight_only_resources import PANEL_BYTES, group_columns, halves
from tiles.kernels.weight_only_rules import (
    LEAST_PANELS,
    resource_rules,
    scale_rules,
    shape_rules,
    tma_rules,
    waste_rules,
)
from tiles.problems import Gemm, Problem

__all__ = ["TritonWeightOnly", "WeightOnlyConfig", "weight_only_refusal"]

#: Elements of activations and of weights that the template takes.
ACTIVATIONS = ("bf16", "fp16")
WEIGHTS = ("int4", "uint4", "int8", "e4m3fn", "e2m1fn")
#: Groups along K below a panel that 4-bit codes may have.
SMALL_GROUPS = (16, 32, 64)
_CAPABILITY = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOnlyConfig(TileConfig):
    """One configuration of the weight-only product."""

    block_m: int  #: CTA tile along M (tokens), elements
    block_n: int  #: CTA tile along N (output channels), elements
    group_m: int  #: raster group: tiles along M visited before moving along N
    split_k: int  #: programs that share the K extent of a tile
    num_warps: int
    num_stages: int  #: depth of the shared-memory pipeline
    tma: bool  #: loads go through tensor-memory-access descriptors
    fold: bool  #: scales of groups multiply the weights, rounded, instead of partial sums


#: The cheapest reason first.
_RULES: tuple[Callable[[Gemm, ConfigTable, Limits], list[Rule]], ...] = (
    shape_rules,
    scale_rules,
    tma_rules,
    resource_rules,
    waste_rules,
)


def undecoded(family: str, weight: TensorFormat) -> str | None:
    """Why a family of weight-only products decodes no weights of this format; None: it does."""
    if weight.element.name not in WEIGHTS or weight.scaling is None:
        return f"{family} takes scaled {', '.join(WEIGHTS)} weights, not {weight}"
    scaling = weight.scaling
    if scaling.rows is None and scaling.cols is not None:
        return f"{weight}: scales of whole columns do not go with a sum along K"
    group, panel = group_columns(weight), PANEL_BYTES * halves(weight)
    if group == 0:
        return f"{weight}: zero points go with groups along K" if weight.asymmetric else None
    if group % panel and not (halves(weight) == 2 and group in SMALL_GROUPS):
        small = f"{', '.join(map(str, SMALL_GROUPS))} or " if halves(weight) == 2 else ""
        return f"{weight}: groups along K are {small}multiples of {panel}"
    return None


def weight_only_refusal(name: str, problem: Gemm) -> str | None:
    """Why no kernel multiplies a problem as plain activations by decoded weights."""
    if reason := coded_output(name, problem):
        return reason
    recipe = problem.recipe
    if recipe.outliers is not None:
        return f"{name} has no second product for outliers: {recipe.outliers}"
    activation, weight = recipe.activation, recipe.weight
    if activation.scaling is not None or activation.element.name not in ACTIVATIONS:
        return f"{name} takes plain {' or '.join(ACTIVATIONS)} activations: {activation}"
    if reason := undecoded(name, weight):
        return reason
    assert weight.scaling is not None
    if weight.scaling.stored.name == "e8m0fnu" and activation.element.name == "fp16":
        return "E8M0 scales need the range of bf16: activations are fp16"
    return None


class TritonWeightOnly(TritonKernel):
    """``triton/gemm_weight_only.py``: bf16 or fp16 activations times packed low-bit weights."""

    name: ClassVar[str] = "triton_weight_only"
    config_type: ClassVar[type[TileConfig]] = WeightOnlyConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Gemm):
            return f"{self.name} serves gemm problems, not {problem}"
        if reason := weight_only_refusal(self.name, problem):
            return reason
        if limits.vendor != "nvidia":
            return f"{limits.gpu}: weights are decoded by instructions of NVIDIA's GPUs"
        if limits.capability < _CAPABILITY:
            return f"{limits.gpu}: capability {limits.capability} < {_CAPABILITY}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.EMULATED

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            WeightOnlyConfig,
            block_m=(8, 16, 32, 64, 128, 256),
            block_n=(32, 64, 128, 256),
            group_m=(1, 8),
            split_k=(1, 2, 4, 8, 16),
            num_warps=(2, 4, 8),
            num_stages=(2, 3, 4, 6, 8),
            tma=(False, True),
            fold=(False, True),
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        """The legality rules, cheapest reason first; a configuration is counted by its first."""
        assert isinstance(problem, Gemm)
        return [rule for group in _RULES for rule in group(problem, table, limits)]

    def default(self, problem: Problem, limits: Limits) -> WeightOnlyConfig:
        """By M: narrow tiles and a split K for a decode step, square tiles for the rest.

        The first candidate that the gate accepts is taken.
        """
        assert isinstance(problem, Gemm)
        panels = -(-problem.k // (PANEL_BYTES * halves(problem.recipe.weight)))
        group = group_columns(problem.recipe.weight)
        block_m = min(128, max(8, next_power_of_two(problem.m)))
        block_n, warps = (64, 4) if problem.m <= 128 else (128, 8)
        # Enough programs for several on every multiprocessor of a large GPU, if K has them.
        tiles = -(-problem.m // block_m) * -(-problem.n // block_n)
        split = 1
        while split < 16 and tiles * split < 512 and panels >= 2 * split * LEAST_PANELS:
            split *= 2
        # What won every product of 2048 rows on an H200.
        prefill = WeightOnlyConfig(
            block_m=128,
            block_n=128,
            group_m=8,
            split_k=1,
            num_warps=4,
            num_stages=2,
            tma=True,
            fold=group > 0,
        )
        candidates = [prefill] if problem.m > 128 else []
        candidates += [
            WeightOnlyConfig(
                block_m=m,
                block_n=n,
                group_m=8 if problem.m > m else 1,
                split_k=split,
                num_warps=w,
                num_stages=stages,
                tma=False,
                fold=0 < group < 64,
            )
            for m in (block_m, 64, 32, 16, 8)
            for n, w in ((block_n, warps), (block_n, warps // 2), (64, 4), (64, 2), (32, 2))
            for stages in (4, 3, 2)
        ]
        return first_legal(self, problem, limits, candidates)

    @property
    def template(self) -> Path:
        return Path(__file__).with_name("triton") / "gemm_weight_only.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.weight_only_workload import WeightOnlyWorkload

        assert isinstance(problem, Gemm)
        return WeightOnlyWorkload(problem, device=device, seed=seed)
