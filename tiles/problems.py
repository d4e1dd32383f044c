"""Problems: the computations that kernels are searched for."""

import re
from dataclasses import dataclass

from tiles.formats import ElementFormat, TensorFormat, element
from tiles.recipes import Recipe, recipe

__all__ = ["MAX_EXTENT", "Gemm", "Problem", "Quantize", "parse_problem", "parse_shape"]

#: No dimension of a real layer comes near this; a larger one is a slip of the keyboard.
MAX_EXTENT = 2**24
#: Largest tensor of a problem in bytes: more than any one GPU holds is refused at the door.
MAX_TENSOR_BYTES = 2**38

_OUTPUTS = ("bf16", "fp16", "fp32")


def _check_extents(extents: dict[str, int]) -> None:
    for name, extent in extents.items():
        if not 1 <= extent <= MAX_EXTENT:
            raise ValueError(f"{name} = {extent}: a dimension must lie in 1..{MAX_EXTENT}")


def _check_tensor(name: str, rows: int, cols: int, bits: int) -> None:
    size = rows * cols * bits // 8
    if size > MAX_TENSOR_BYTES:
        raise ValueError(
            f"{name} of {rows} x {cols} takes {size} bytes: at most {MAX_TENSOR_BYTES}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """``C[m, n] = A[m, k] · B[n, k]^T``, all row-major, K contiguous in A and B.

    A holds activations and B weights in the formats of ``recipe``; C is plain ``out``.
    """

    m: int
    n: int
    k: int
    recipe: Recipe
    out: str = "bf16"  #: element format of C: bf16, fp16 or fp32

    def __post_init__(self) -> None:
        _check_extents({"M": self.m, "N": self.n, "K": self.k})
        if self.out not in _OUTPUTS:
            raise ValueError(f"output format {self.out!r}: choose one of {', '.join(_OUTPUTS)}")
        _check_tensor("A", self.m, self.k, self.recipe.activation.element.bits)
        _check_tensor("B", self.n, self.k, self.recipe.weight.element.bits)
        _check_tensor("C", self.m, self.n, element(self.out).bits)

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
            + self.m * self.n * element(self.out).bits // 8
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, N, K)."""
        return (self.m, self.n, self.k)

    def __str__(self) -> str:
        return f"gemm:{self.m}x{self.n}x{self.k}:{self.recipe}:{self.out}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize:
    """Quantise a row-major ``rows`` x ``cols`` matrix of ``source`` elements to ``target``."""

    rows: int
    cols: int
    target: TensorFormat
    source: str = "bf16"  #: element format of the input: bf16, fp16 or fp32

    def __post_init__(self) -> None:
        _check_extents({"rows": self.rows, "cols": self.cols})
        if self.source not in _OUTPUTS:
            raise ValueError(f"source format {self.source!r}: choose one of {', '.join(_OUTPUTS)}")
        if self.target.scaling is None:
            raise ValueError(f"target {self.target} has no scaling: write e.g. int8.b32x32")
        _check_tensor("input", self.rows, self.cols, self.source_element.bits)

    @property
    def source_element(self) -> ElementFormat:
        """The input's element format."""
        return element(self.source)

    @property
    def flops(self) -> int:
        """Operations counted for this problem: none, it is bound by memory."""
        return 0

    @property
    def min_bytes(self) -> int:
        """Fewest bytes through device memory: input read once, codes and scales written once."""
        return self.rows * self.cols * self.source_element.bits // 8 + self.target.storage_bytes(
            self.rows, self.cols
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return (self.rows, self.cols)

    def __str__(self) -> str:
        return f"quantize:{self.rows}x{self.cols}:{self.target}:{self.source}"


Problem = Gemm | Quantize

#: ASCII digits alone: ``\d`` takes those of every script.
_SHAPE = re.compile(r"[0-9]{1,12}(x[0-9]{1,12})*")


def parse_shape(text: str, extents: int) -> tuple[int, ...]:
    """Read ``4096x4096x4096`` into integers.

    Raises:
        ValueError: not ``extents`` positive integers joined by ``x``.
    """
    if not _SHAPE.fullmatch(text) or text.count("x") != extents - 1:
        example = "x".join(["4096"] * extents)
        raise ValueError(
            f"shape {text[:60]!r}: write {extents} integers joined by x, e.g. {example}"
        )
    return tuple(int(part) for part in text.split("x"))


def parse_problem(text: str) -> Problem:
    """Read what ``str(problem)`` wrote.

    Raises:
        ValueError: not a problem's text.
    """
    kind, *fields = text.split(":")
    if len(fields) != 3 or kind not in ("gemm", "quantize"):
        raise ValueError(
            f"problem {text!r}: write gemm:MxNxK:recipe:out or quantize:RxC:target:source"
        )
    shape, formats, plain = fields
    if kind == "gemm":
        m, n, k = parse_shape(shape, 3)
        return Gemm(m=m, n=n, k=k, recipe=recipe(formats), out=plain)
    rows, cols = parse_shape(shape, 2)
    return Quantize(rows=rows, cols=cols, target=TensorFormat.parse(formats), source=plain)
