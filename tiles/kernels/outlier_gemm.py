"""Descriptor of int8 products in Triton whose activations have outliers apart."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tiles.formats import IntElement, TensorFormat
from tiles.kernels.base import Limits, NumericPath, Workload
from tiles.kernels.config import TileConfig
from tiles.kernels.first_legal import first_legal
from tiles.kernels.gemm import GemmConfig, TritonGemm
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.triton_kernel import TritonKernel
from tiles.problems import Gemm, Problem
from tiles.recipes import OutlierBlocks, OutlierColumns

__all__ = [
    "OutlierGemmConfig",
    "TritonOutlierGemm",
    "expected_columns",
    "fallback_capacity",
    "inner_problem",
    "inner_table",
    "kept_smem_bytes",
]

_PRODUCT = TritonGemm()
#: Columns that hold outliers, of all.  Source: LLM.int8(), arXiv 2208.07339: some 0.1 % of the
#: features; what a layer really has is read on the device.
OUTLIER_COLUMNS = 0.001
#: Columns that an iteration over kept columns takes at most: memory is padded to it.
_MOST_COLUMNS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierGemmConfig(TileConfig):
    """One configuration of the product with outliers apart."""

    block_m: int  #: CTA tile rows, elements
    block_n: int  #: CTA tile columns, elements
    block_k: int  #: depth of one K-iteration, elements
    outlier_k: int  #: depth of an iteration over kept columns; block_k beside fallback blocks
    group_m: int  #: raster group: tiles along M visited before moving along N
    num_warps: int
    num_stages: int  #: depth of the shared-memory pipeline
    tma: bool  #: int8 operands and the store go through tensor-memory-access descriptors


def inner_problem(problem: Gemm) -> Gemm:
    """The product of the codes alone."""
    plain = replace(problem.recipe, name=f"codes-of-{problem.recipe}", outliers=None)
    return replace(problem, recipe=plain)


def inner_table(table: ConfigTable) -> ConfigTable:
    """The same configurations as the product of the codes has them: one CTA a tile."""
    columns = {name: table[name] for name in table.columns if name != "outlier_k"}
    return ConfigTable(GemmConfig, {**columns, "persistent": np.zeros(len(table), dtype=bool)})


def kept_smem_bytes(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    """Shared memory of the loop over kept columns, bytes; it takes the place of the K loop's.

    Held against the compiler (triton 3.7.1, sm_90) on a sample of legal configurations: with that
    of the K loop, the larger of the two is never below what a CTA takes.
    """
    outliers = problem.recipe.outliers
    bits = outliers.kept.bits if isinstance(outliers, OutlierColumns) else 0
    extents = table["block_m"] + table["block_n"]
    total: NDArray[np.int64] = table["num_stages"] * extents * table["outlier_k"] * bits // 8
    return total


def expected_columns(k: int) -> int:
    """Outlier columns that predictions and random operands take there to be, at least 1."""
    return math.ceil(OUTLIER_COLUMNS * k)


def fallback_capacity(problem: Gemm) -> int:
    """Blocks of the activations that fall back, at most: the share, rounded up.

    Raises:
        ValueError: none can.
    """
    outliers, scaling = problem.recipe.outliers, problem.recipe.activation.scaling
    if not isinstance(outliers, OutlierBlocks) or scaling is None:
        raise ValueError(f"no block of {problem} falls back")
    blocks = -(-problem.m // (scaling.rows or problem.m)) * -(
        -problem.k // (scaling.cols or problem.k)
    )
    return math.ceil(outliers.share * blocks)


class TritonOutlierGemm(TritonKernel):
    """``triton/gemm_outliers.py``: int8 with kept columns in 16 bits, or with fallback blocks."""

    name: ClassVar[str] = "triton_outlier_gemm"
    config_type: ClassVar[type[TileConfig]] = OutlierGemmConfig

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Gemm):
            return f"{self.name} serves gemm problems, not {problem}"
        recipe = problem.recipe
        if recipe.outliers is None:
            return f"{self.name} serves recipes with outliers apart, not {recipe}"
        for fmt, least in ((recipe.activation, 16), (recipe.weight, 32)):
            if not (isinstance(fmt.element, IntElement) and fmt.element.name == "int8"):
                return f"{self.name} multiplies int8, not {fmt}"
            if not fmt.plain or fmt.scaling is None:
                return f"{self.name} takes fp32 absmax scales and codes rounded to even, not {fmt}"
            if reason := self._unscaled(fmt, recipe.outliers, least):
                return reason
        if "int8" not in limits.native_elements:
            return f"int8 has no path on {limits.gpu}"
        return _PRODUCT.refusal(inner_problem(problem), limits)

    def _unscaled(
        self, fmt: TensorFormat, outliers: OutlierColumns | OutlierBlocks, least: int
    ) -> str | None:
        """Why outliers of that kind have no product with scales of that shape; None: they have."""
        assert fmt.scaling is not None
        rows, cols = fmt.scaling.rows, fmt.scaling.cols
        if isinstance(outliers, OutlierColumns):
            if outliers.kept.name not in ("fp16", "bf16"):
                return f"{self.name} keeps columns in fp16 or bf16, not {outliers.kept}"
            if cols is not None or rows not in (None, 1):
                return f"{self.name} takes one scale a tensor or row beside columns, not {fmt}"
        elif rows is None or cols is None or rows % least:
            # The smallest tile that four warps share is 16 x 32.
            return f"{self.name} adds fallback blocks of multiples of {least} rows, not {fmt}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        assert isinstance(problem, Gemm)
        columns = isinstance(problem.recipe.outliers, OutlierColumns)
        table = ConfigTable.product(
            OutlierGemmConfig,
            block_m=(16, 32, 64, 128, 256),
            block_n=(16, 32, 64, 128, 256),
            block_k=(32, 64, 128),
            outlier_k=(16, 32, 64) if columns else (32, 64, 128),
            group_m=(1, 8),
            num_warps=(4, 8),
            num_stages=(2, 3, 4, 5),
            tma=(False, True),
        )
        return table if columns else table.take(table["outlier_k"] == table["block_k"])

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        """The rules of the product of the codes, and those of what is added."""
        assert isinstance(problem, Gemm)
        inner = inner_problem(problem)
        product = _PRODUCT.rules(inner, inner_table(table), limits)
        return [*product, *_outlier_rules(problem, table, limits)]

    def default(self, problem: Problem, limits: Limits) -> OutlierGemmConfig:
        """That of the product of the codes, with smaller tiles where blocks ask for them."""
        assert isinstance(problem, Gemm)
        own = _PRODUCT.default(inner_problem(problem), limits)
        columns = isinstance(problem.recipe.outliers, OutlierColumns)
        tiles = ((own.block_m, own.block_n), (64, 64), (32, 32), (16, 32), (16, 16))
        candidates = (
            OutlierGemmConfig(
                block_m=min(block_m, own.block_m),
                block_n=min(block_n, own.block_n),
                block_k=own.block_k,
                outlier_k=16 if columns else own.block_k,
                group_m=8 if problem.m > block_m else 1,
                num_warps=own.num_warps if block_m == own.block_m else 4,
                num_stages=stages,
                tma=own.tma,
            )
            for block_m, block_n in tiles
            for stages in (own.num_stages, 3, 2)
        )
        return first_legal(self, problem, limits, candidates)

    @property
    def template(self) -> Path:
        return Path(__file__).with_name("triton") / "gemm_outliers.py"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        from tiles.kernels.outlier_workload import OutlierGemmWorkload

        assert isinstance(problem, Gemm)
        return OutlierGemmWorkload(problem, device=device, seed=seed)


def _outlier_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What the second product needs."""
    m, n, k, depth = (table[x] for x in ("block_m", "block_n", "block_k", "outlier_k"))
    if isinstance(problem.recipe.outliers, OutlierColumns):
        smem = kept_smem_bytes(problem, table)
        return [
            Rule(
                "outlier depth",
                (depth < 16) | (depth > _MOST_COLUMNS) | (depth & (depth - 1) != 0),
                lambda r: f"outlier_k {depth[r]}: over kept columns it is 16, 32 or 64",
            ),
            Rule(
                "outlier memory",
                smem > limits.smem_bytes_per_cta,
                lambda r: f"kept columns: {smem[r]} B > {limits.smem_bytes_per_cta} B a CTA",
            ),
        ]
    scalings = [fmt.scaling for fmt in (problem.recipe.activation, problem.recipe.weight)]
    rows_a, rows_b = (0 if s is None or s.rows is None else s.rows for s in scalings)
    return [
        Rule(
            "outlier depth",
            depth != k,
            lambda r: f"outlier_k {depth[r]}: beside fallback blocks it is block_k, {k[r]}",
        ),
        # A tile lies in one block row, so that it has one list of blocks, and scales are scalars.
        Rule(
            "quant rows",
            (rows_a % np.maximum(m, 1) != 0) | (rows_b % np.maximum(n, 1) != 0),
            lambda r: f"tile {m[r]}x{n[r]} does not divide blocks of {rows_a} and {rows_b} rows",
        ),
    ]
