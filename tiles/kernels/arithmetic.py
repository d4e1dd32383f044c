"""How kernels add up a product: what bounds of its error depend on beside the operands."""

from dataclasses import dataclass

from tiles.formats import FloatElement, IntElement, element
from tiles.kernels.accumulator import HOPPER_FP8_BITS, HOPPER_FP8_DEPTH
from tiles.problems import Gemm

__all__ = ["Arithmetic", "gemm_arithmetic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """How a kernel adds up a product: what the error bound depends on beside the operands."""

    significand_bits: int | None  #: kept of each addend of an MMA step; ``None``: exact
    depth: int  #: elements along K of one MMA step
    promote_k: int | None  #: elements along K between promotions to fp32; ``None``: never
    output: FloatElement  #: format that the result is rounded to
    output_truncates: bool = False  #: Triton's interpreter truncates fp32 to bf16


def gemm_arithmetic(problem: Gemm, *, decode: bool, interpreted: bool = False) -> Arithmetic:
    """The arithmetic of a scaled GEMM.

    Args:
        problem: the product.
        decode: 8-bit floats are multiplied as fp16.
        interpreted: run by Triton's interpreter, whose products are fp32 and whose bf16 truncates.
    """
    activation = problem.recipe.activation
    scalings = (activation.scaling, problem.recipe.weight.scaling)
    intervals = [s.cols for s in scalings if s is not None and s.cols is not None]
    output = element(problem.out)
    assert isinstance(output, FloatElement)
    bits: int | None = 24
    depth = 16
    if isinstance(activation.element, IntElement):
        bits = None
    elif activation.element.bits == 8 and not (decode or interpreted):
        bits, depth = HOPPER_FP8_BITS, HOPPER_FP8_DEPTH
    return Arithmetic(
        significand_bits=bits,
        depth=depth,
        promote_k=min(intervals) if intervals else None,
        output=output,
        output_truncates=interpreted,
    )
