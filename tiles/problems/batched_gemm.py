"""Batches of products, as attention has one for every sequence and head."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Self

from tiles.formats import element
from tiles.problems.base import Problem, check_extents, check_plain, check_tensor, parse_shape
from tiles.problems.gemm import Gemm
from tiles.recipes import Recipe, recipe

__all__ = ["BatchedGemm", "SecondOperand"]


class SecondOperand(Enum):
    """How the second operand of a product lies in memory, its last extent contiguous."""

    NK = "nk"  #: [N, K]: K contiguous, as attention's K in Q·K^T
    KN = "kn"  #: [K, N]: N contiguous, as attention's V in P·V


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedGemm(Problem):
    """``C[b, m, n] = A[b, m, k] · B[b, n, k]^T`` for every b; each matrix is scaled by itself.

    Scales of B lie on the grid of its [N, K] shape whichever way its codes are stored.
    """

    kind: ClassVar[str] = "batched_gemm"
    template: ClassVar[str] = "batched_gemm:BxMxNxK:recipe:nk|kn:out"

    batch: int
    m: int
    n: int
    k: int
    recipe: Recipe
    second: SecondOperand = SecondOperand.NK
    out: str = "bf16"  #: element format of C: bf16, fp16 or fp32

    def __post_init__(self) -> None:
        check_extents({"B": self.batch, "M": self.m, "N": self.n, "K": self.k})
        check_plain("output", self.out)
        rows = self.batch * self.m
        check_tensor("A", rows, self.k, self.recipe.activation.element.bits)
        check_tensor("B", self.batch * self.n, self.k, self.recipe.weight.element.bits)
        check_tensor("C", rows, self.n, element(self.out).bits)

    @property
    def single(self) -> Gemm:
        """The product of one matrix of the batch."""
        return Gemm(m=self.m, n=self.n, k=self.k, recipe=self.recipe, out=self.out)

    @property
    def flops(self) -> int:
        """Floating-point (or integer) operations: 2·B·M·N·K."""
        return self.batch * self.single.flops

    @property
    def min_bytes(self) -> int:
        """Fewest bytes through device memory: operands and scales read once, C written once."""
        return self.batch * self.single.min_bytes

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, M, N, K)."""
        return (self.batch, self.m, self.n, self.k)

    @property
    def formats(self) -> tuple[str, str, str]:
        """Recipe, layout of the second operand, and output element."""
        return (self.recipe.name, self.second.value, self.out)

    @property
    def tokens(self) -> int:
        """Rows of one product: queries."""
        return self.m

    def with_tokens(self, tokens: int) -> Self:
        """The same work on another number of queries."""
        return replace(self, m=tokens)

    def resized(self, *shape: int) -> Self:
        """Another B, M, N and K."""
        batch, m, n, k = shape
        return replace(self, batch=batch, m=m, n=n, k=k)

    @classmethod
    def parse(cls, shape: str, *fields: str) -> Self:
        """``BxMxNxK``, recipe, layout of the second operand, output format."""
        named, stored, out = fields
        batch, m, n, k = parse_shape(shape, 4)
        choices = [one.value for one in SecondOperand]
        if stored not in choices:
            raise ValueError(f"second operand {stored!r}: choose one of {', '.join(choices)}")
        return cls(
            batch=batch,
            m=m,
            n=n,
            k=k,
            recipe=recipe(named),
            second=SecondOperand(stored),
            out=out,
        )
