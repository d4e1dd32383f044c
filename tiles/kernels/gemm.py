"""Descriptor of the scaled GEMM in Triton: its configurations and which of them are legal."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from tiles.formats import IntElement, TensorFormat, scale_element
from tiles.kernels.base import Limits, NumericPath, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.first_legal import first_legal
from tiles.kernels.gemm_modes import mode_rules, mode_tables
from tiles.kernels.gemm_rules import (
    launch_rules,
    operand_formats,
    quant_columns,
    shape_rules,
    waste_rules,
)
from tiles.kernels.refusals import coded_output
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.triton_kernel import TritonKernel
from tiles.problems import Gemm, Problem
from tiles.recipes import Recipe

__all__ = ["GemmConfig", "TritonGemm"]

#: Elements that the template loads; operands are of one element, or both 8-bit floats.
OPERANDS = ("bf16", "fp16", "e4m3fn", "e5m2", "int8")
EIGHT_BIT_FLOATS = frozenset({"e4m3fn", "e5m2"})
#: 127 · 127 · K must stay below 2^31 for an exact int32 accumulator.
MAX_INT32_K = (2**31 - 1) // (127 * 127)
#: Capability from which bf16 multiplies on tensor cores; older ones have fp16 only.
_BF16_CAPABILITY = 80


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
    split_k: int = 1  #: programs that share the K extent of a tile
    stream_k: bool = False  #: a persistent launch shares K where tiles do not fill the GPU
    subtiles: int = 0  #: parts in which descriptors write a tile; 0: two of a large persistent one
    overlap: bool = False  #: a product is promoted while the next one runs
    specialize: bool = False  #: one warpgroup fetches, two multiply


def _half_scales(fmt: TensorFormat) -> bool:
    """A plain format but for scales that are stored in fp16."""
    if fmt.scaling is None or fmt.scaling.stored.name != "fp16":
        return False
    wide = replace(fmt.scaling, stored=scale_element("fp32"))
    return replace(fmt, scaling=wide).plain


class TritonGemm(TritonKernel):
    """``tiles/kernels/triton/gemm_scaled.py``: plain, tensor, row and block scaled products."""

    name: ClassVar[str] = "triton_gemm"
    config_type: ClassVar[type[TileConfig]] = GemmConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Gemm):
            return f"{self.name} serves gemm problems, not {problem}"
        if reason := coded_output(self.name, problem):
            return reason
        if reason := self._unserved(problem.recipe):
            return reason
        activation, weight = problem.recipe.activation, problem.recipe.weight
        elements = (activation.element, weight.element)
        integer = [isinstance(e, IntElement) for e in elements]
        if all(integer) and not problem.recipe.blockwise and problem.k > MAX_INT32_K:
            return f"K {problem.k} > {MAX_INT32_K}: the int32 accumulator could overflow"
        for fmt in (activation, weight):
            columns = quant_columns(fmt)
            if columns % 32:
                return f"{fmt}: scale blocks along K must be multiples of 32, not {columns}"
        if limits.vendor == "nvidia" and limits.capability < _BF16_CAPABILITY:
            return f"{limits.gpu}: capability {limits.capability} < {_BF16_CAPABILITY}"
        for one in elements:
            if one.name in limits.native_elements:
                continue
            # Elements without a tensor-core path are decoded to fp16: it holds every 8-bit float.
            if isinstance(one, IntElement) or one.bits != 8:
                return f"{one} has no path on {limits.gpu}"
        return None

    def _unserved(self, recipe: Recipe) -> str | None:
        """Why the template computes no product of this recipe, whatever the GPU; None: it does."""
        if recipe.outliers is not None:
            return f"{self.name} has no second product for outliers: {recipe.outliers}"
        formats = (recipe.activation, recipe.weight)
        a, b = (fmt.element.name for fmt in formats)
        for fmt in formats:
            if fmt.element.name not in OPERANDS:
                return f"{self.name} multiplies {', '.join(OPERANDS)}, not {fmt.element}"
        if a != b and not {a, b} <= EIGHT_BIT_FLOATS:
            return f"no tensor core multiplies {a} by {b}"
        for fmt in formats:
            if not (fmt.plain or _half_scales(fmt)):
                return (
                    f"{self.name} takes fp32 or fp16 absmax scales and codes rounded to even, "
                    f"not {fmt}"
                )
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        assert isinstance(problem, Gemm)
        elements = {problem.recipe.activation.element.name, problem.recipe.weight.element.name}
        native = elements <= limits.native_elements
        return NumericPath.NATIVE if native else NumericPath.EMULATED

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        plain = ConfigTable.product(
            GemmConfig,
            block_m=(16, 32, 64, 128, 256),
            block_n=(16, 32, 64, 128, 256),
            block_k=(32, 64, 128, 256),
            group_m=(1, 8),
            num_warps=(4, 8),
            num_stages=(2, 3, 4, 5, 6),
            tma=(False, True),
            persistent=(False, True),
        )
        assert isinstance(problem, Gemm)
        return ConfigTable.joined([plain, *mode_tables(problem, limits, GemmConfig)])

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        """The legality rules, cheapest reason first; a configuration is counted by its first."""
        assert isinstance(problem, Gemm)
        groups: tuple[Callable[[Gemm, ConfigTable, Limits], list[Rule]], ...] = (
            shape_rules,
            launch_rules,
            waste_rules,
            mode_rules,
        )
        return [rule for group in groups for rule in group(problem, table, limits)]

    def default(self, problem: Problem, limits: Limits) -> GemmConfig:
        """By M: small tiles that spread a decode product, large square ones for the rest.

        Block-scaled products hold two accumulators, so their tiles stay at 128 x 128 and below.
        The first candidate that the gate accepts is taken; the last one is legal wherever the
        family serves at all.
        """
        assert isinstance(problem, Gemm)
        quant = [q for q in map(quant_columns, operand_formats(problem)) if q]
        depth = 128 if problem.recipe.activation.element.bits == 8 else 64
        tiles: tuple[tuple[int, int, int], ...]
        if problem.m <= 16:
            tiles = ((16, 64, 4), (16, 32, 4))
        elif problem.m <= 64:
            tiles = ((64, 64, 4), (32, 64, 4))
        elif problem.m <= 512:
            tiles = ((64, 128, 4), (64, 64, 4))
        else:
            tiles = ((128, 128, 8), (64, 64, 4))
        if problem.n < 64:
            tiles = (*((m, 32, 4) for m, _, _ in tiles), *tiles)
        depths = [d for d in (depth, 64, 32) if all(q % d == 0 for q in quant)]
        candidates = (
            GemmConfig(
                block_m=m,
                block_n=n,
                block_k=k,
                group_m=8 if problem.m > m else 1,
                num_warps=warps,
                num_stages=stages,
                tma=tma,
                persistent=False,
            )
            for tma in (True, False)
            for m, n, warps in (*tiles, (16, 32, 4))
            for k in depths
            for stages in (4, 3, 2)
        )
        return first_legal(self, problem, limits, candidates)

    @property
    def template(self) -> Path:
        return Path(__file__).parent / "triton" / "gemm_scaled.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.gemm_workload import GemmWorkload

        assert isinstance(problem, Gemm)
        return GemmWorkload(problem, device=device, seed=seed)

    def blank_workload(self, problem: Problem, limits: Limits) -> Workload:
        from tiles.kernels.gemm_workload import GemmWorkload
        from tiles.kernels.offline_triton import META

        assert isinstance(problem, Gemm)
        native = {
            e.name for e in (f.element for f in operand_formats(problem))
        } <= limits.native_elements
        # The number of multiprocessors decides the grid alone, not what is compiled.
        return GemmWorkload(problem, device=META, seed=0, decode=not native, num_sms=1)
