"""Grouped products: the experts of a mixture, each with its own weights and rows."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from tiles.formats import element
from tiles.problems.base import Problem, check_extents, check_plain, check_tensor, parse_shape
from tiles.problems.gemm import Gemm
from tiles.problems.group_layout import GroupLayout, RowOrder
from tiles.recipes import Recipe, recipe

__all__ = ["GroupedGemm"]


CONTIGUOUS = GroupLayout(order=RowOrder.CONTIGUOUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedGemm(Problem):
    """``C[r, n] = A[r, k] · B[e(r), n, k]^T``: row r of M in all goes to expert e(r) of E.

    How many rows each expert has is known on the device alone; :meth:`expected_tiles` takes rows
    to choose experts independently and alike.
    """

    kind: ClassVar[str] = "grouped_gemm"
    template: ClassVar[str] = "grouped_gemm:ExMxNxK:recipe:layout:out"

    experts: int
    m: int  #: rows that are multiplied, over all experts
    n: int
    k: int
    recipe: Recipe
    layout: GroupLayout = CONTIGUOUS
    out: str = "bf16"  #: element format of C: bf16, fp16 or fp32

    def __post_init__(self) -> None:
        check_extents({"E": self.experts, "M": self.m, "N": self.n, "K": self.k})
        check_plain("output", self.out)
        size = self.layout.size
        if self.layout.order is RowOrder.MASKED and self.m > self.experts * size:
            raise ValueError(f"M = {self.m}: {self.experts} experts of {size} rows do not hold it")
        if self.layout.order is RowOrder.GATHERED and (self.m % size or size > self.experts):
            raise ValueError(
                f"layout {self.layout}: M = {self.m} must be a multiple of {size}, and each token "
                f"goes to so many different experts of {self.experts}"
            )
        check_tensor("A", self.a_rows, self.k, self.recipe.activation.element.bits)
        check_tensor("B", self.experts * self.n, self.k, self.recipe.weight.element.bits)
        check_tensor("C", self.c_rows, self.n, element(self.out).bits)

    @property
    def a_rows(self) -> int:
        """Rows that A has in memory, padding included; of padded layouts the most there can be."""
        size = self.layout.size
        match self.layout.order:
            case RowOrder.MASKED:
                return self.experts * size
            case RowOrder.GATHERED:
                return self.m // size
            case RowOrder.PADDED:
                # Every expert with rows adds less than a block.
                return (self.m + min(self.experts, self.m) * (size - 1)) // size * size
            case RowOrder.CONTIGUOUS:
                return self.m

    @property
    def c_rows(self) -> int:
        """Rows that C has in memory: those of A, but one for every choice of a gathered token."""
        return self.m if self.layout.order is RowOrder.GATHERED else self.a_rows

    @property
    def top_k(self) -> int:
        """Experts that a row of A goes to."""
        return self.layout.size if self.layout.order is RowOrder.GATHERED else 1

    def single(self, rows: int) -> Gemm:
        """The product of an expert with that many rows."""
        return Gemm(m=rows, n=self.n, k=self.k, recipe=self.recipe, out=self.out)

    def expected_tiles(self, block_m: int) -> float:
        """Expected tiles along M over all experts, edges included, where rows choose alike.

        An expert's rows are binomial, ``Bin(M, 1/E)``; the sum of ceil(rows / block_m) is taken
        over its distribution.  Never below one tile for all.
        """
        share = 1 / self.experts
        if self.experts == 1:
            return float(-(-self.m // block_m))
        # P(rows > j·block_m), summed over j; log-gamma keeps the terms of large M in range.
        mean, spread = self.m * share, math.sqrt(self.m * share * (1 - share))
        last = min(self.m, math.ceil(mean + 12 * spread + 12))
        first = max(0, math.floor(mean - 12 * spread - 12))
        log_m = math.lgamma(self.m + 1)
        tiles = 0.0
        for rows in range(first, last + 1):
            log_p = (
                log_m
                - math.lgamma(rows + 1)
                - math.lgamma(self.m - rows + 1)
                + rows * math.log(share)
                + (self.m - rows) * math.log1p(-share)
            )
            tiles += math.exp(log_p) * -(-rows // block_m)
        return max(1.0, self.experts * tiles)

    @property
    def expected_active(self) -> float:
        """Expected experts with any row: those whose weights are read."""
        if self.experts == 1:
            return 1.0
        return self.experts * -math.expm1(self.m * math.log1p(-1 / self.experts))

    @property
    def flops(self) -> int:
        """Floating-point (or integer) operations: 2·M·N·K; padding is no work."""
        return 2 * self.m * self.n * self.k

    @property
    def min_bytes(self) -> int:
        """Fewest bytes through device memory: rows in use and the weights of every expert that can
        have one read once, C written once.
        """
        rows = self.m // self.top_k
        return (
            self.recipe.activation.storage_bytes(rows, self.k)
            + min(self.experts, self.m) * self.recipe.weight.storage_bytes(self.n, self.k)
            + self.m * self.n * element(self.out).bits // 8
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(E, M, N, K)."""
        return (self.experts, self.m, self.n, self.k)

    @property
    def formats(self) -> tuple[str, str, str]:
        """Recipe, layout and output element."""
        return (self.recipe.name, str(self.layout), self.out)

    @property
    def tokens(self) -> int:
        """Rows over all experts: what batches and sequences change."""
        return self.m

    def with_tokens(self, tokens: int) -> Self:
        """The same experts on another number of rows."""
        return replace(self, m=tokens)

    def resized(self, *shape: int) -> Self:
        """Another E, M, N and K."""
        experts, m, n, k = shape
        return replace(self, experts=experts, m=m, n=n, k=k)

    @classmethod
    def parse(cls, shape: str, *fields: str) -> Self:
        """``ExMxNxK``, recipe, layout, output format."""
        named, layout, out = fields
        experts, m, n, k = parse_shape(shape, 4)
        return cls(
            experts=experts,
            m=m,
            n=n,
            k=k,
            recipe=recipe(named),
            layout=GroupLayout.parse(layout),
            out=out,
        )
