"""Products of an activation and a weight matrix."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from tiles.formats import TensorFormat
from tiles.problems.base import Problem, check_extents, check_plain, check_tensor, parse_shape
from tiles.recipes import Recipe, recipe

__all__ = ["Gemm", "check_output"]


def check_output(name: str) -> None:
    """Refuse an output that no product has.

    Raises:
        ValueError: neither bf16, fp16 or fp32 nor codes with scales, or spelt otherwise than
            :class:`TensorFormat` spells it.
    """
    if "." not in name:
        check_plain("output", name)
        return
    found = TensorFormat.parse(name)
    if str(found) != name:
        raise ValueError(f"output format {name!r}: write {found}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm(Problem):
    """``C[m, n] = A[m, k] · B[n, k]^T``, all row-major, K contiguous in A and B.

    A holds activations and B weights in the formats of ``recipe``; C is plain ``out``, or the
    codes and scales of ``out``, quantised from the fp32 product.
    """

    kind: ClassVar[str] = "gemm"
    template: ClassVar[str] = "gemm:MxNxK:recipe:out"

    m: int
    n: int
    k: int
    recipe: Recipe
    out: str = "bf16"  #: format of C: bf16, fp16, fp32, or one with scales such as int8.b32x32

    def __post_init__(self) -> None:
        check_extents({"M": self.m, "N": self.n, "K": self.k})
        check_output(self.out)
        check_tensor("A", self.m, self.k, self.recipe.activation.element.bits)
        check_tensor("B", self.n, self.k, self.recipe.weight.element.bits)
        check_tensor("C", self.m, self.n, self.output.element.bits)

    @property
    def output(self) -> TensorFormat:
        """Format of C."""
        return TensorFormat.parse(self.out)

    @property
    def baseline_out(self) -> str:
        """Output of the bf16 product that stands beside this one: C's own, bf16 beside codes."""
        return self.out if self.output.scaling is None else "bf16"

    @property
    def flops(self) -> int:
        """Floating-point (or integer) operations: 2·M·N·K."""
        return 2 * self.m * self.n * self.k

    @property
    def min_bytes(self) -> int:
        """Fewest bytes through device memory: operands and scales read once, C written once."""
        return (
            self.recipe.activation.storage_bytes(self.m, self.k)
            + self.recipe.weight.storage_bytes(self.n, self.k)
            + self.output.storage_bytes(self.m, self.n)
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, N, K)."""
        return (self.m, self.n, self.k)

    @property
    def formats(self) -> tuple[str, str]:
        """Recipe and output format."""
        return (self.recipe.name, self.out)

    def resized(self, *shape: int) -> Self:
        """Another M, N and K."""
        m, n, k = shape
        return replace(self, m=m, n=n, k=k)

    @classmethod
    def parse(cls, shape: str, *fields: str) -> Self:
        """``MxNxK``, recipe, output format."""
        named, out = fields
        m, n, k = parse_shape(shape, 3)
        return cls(m=m, n=n, k=k, recipe=recipe(named), out=out)
