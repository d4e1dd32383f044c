"""How decoded products see a recipe: elements of the template, the 16-bit product behind them."""

from tiles.formats import ElementFormat, FloatElement, IntElement, PositElement, TensorFormat
from tiles.kernels.base import Limits
from tiles.kernels.triton.decoded_element import FOLDED, Element, block_format, wide_type
from tiles.problems import Gemm
from tiles.recipes import Recipe

__all__ = ["block_scaled", "folded", "inner_problem", "sides_of", "template_element", "wide_name"]

#: Instructions that multiply codes with their block scales, and formats of these scales.
_SCALES_TAKEN = {"tcgen05": FOLDED, "mfma_scale": ("e8m0fnu",)}


def template_element(fmt: ElementFormat) -> Element | None:
    """An element's facts as the template takes them; None where it has no decoding."""
    found = None
    match fmt:
        case FloatElement(name="bf16" | "fp16"):
            found = Element(kind="plain", bits=16)
        case FloatElement(signed=True, bits=4 | 6 | 8) if fmt.bias >= 0:
            found = Element(
                kind="float",
                bits=fmt.bits,
                mantissa=fmt.mantissa_bits,
                bias=fmt.bias,
                specials=fmt.specials.value,
            )
        case IntElement(signed=True, bits=4 | 6 | 8):
            found = Element(
                kind="int", bits=fmt.bits, mantissa=fmt.fraction_bits, offset=fmt.offset
            )
        case IntElement(bits=4 | 6 | 8, fraction_bits=0):
            found = Element(kind="uint", bits=fmt.bits)
        case PositElement(bits=4 | 6 | 8):
            found = Element(kind="posit", bits=fmt.bits, mantissa=fmt.es)
    # Sub-byte two's complement has no decoding: such integers are stored plus an offset.
    if found is not None and found.kind == "int" and found.bits < 8 and not found.offset:
        return None
    return found


def folded(fmt: TensorFormat) -> str:
    """Format of the scales that are multiplied into the codes; "" where none are."""
    stored = "" if fmt.scaling is None else fmt.scaling.stored.name
    return stored if stored in FOLDED else ""


def sides_of(recipe: Recipe) -> tuple[TensorFormat, TensorFormat]:
    """Formats of activations and weights."""
    return recipe.activation, recipe.weight


def wide_name(recipe: Recipe) -> str:
    """The 16-bit float that is multiplied.

    Raises:
        ValueError: none holds both operands, or an element has no decoding.
    """
    sides = []
    for fmt in sides_of(recipe):
        element = template_element(fmt.element)
        if element is None:
            raise ValueError(f"{fmt.element} has no decoding")
        sides.append((element, folded(fmt), fmt.element.name))
    return wide_type(*sides)


def _outer(fmt: TensorFormat, wide: str) -> str:
    """The format of the decoded operand: what is multiplied, and the scales that are left."""
    if fmt.scaling is None:
        return wide
    if folded(fmt):
        return f"{wide}.tensor" if fmt.scaling.two_level else wide
    rows, cols = fmt.scaling.rows, fmt.scaling.cols
    if rows is None:
        return f"{wide}.tensor" if cols is None else f"{wide}.col"
    return f"{wide}.row" if cols is None else f"{wide}.b{rows}x{cols}"


def inner_problem(problem: Gemm) -> Gemm:
    """The product of the decoded operands, with the fp32 scales that are left.

    Raises:
        ValueError: see :func:`wide_name`.
    """
    wide = wide_name(problem.recipe)
    activation, weight = (_outer(fmt, wide) for fmt in sides_of(problem.recipe))
    recipe = Recipe.of(
        f"decoded-{problem.recipe}",
        activation=activation,
        weight=weight,
        source=f"{problem.recipe}, decoded",
    )
    return Gemm(m=problem.m, n=problem.n, k=problem.k, recipe=recipe, out=problem.out)


def block_scaled(problem: Gemm, limits: Limits) -> bool:
    """Whether the GPU's tensor cores take both operands with their block scales.

    NVIDIA's ``tcgen05`` takes scales of both kinds, AMD's scaled MFMA those of MX.
    """
    taken = [scales for name, scales in _SCALES_TAKEN.items() if name in limits.features]
    if not taken:
        return False
    names = []
    for fmt in sides_of(problem.recipe):
        element, scaling = template_element(fmt.element), fmt.scaling
        if element is None or scaling is None or scaling.cols is None:
            return False
        names.append(block_format(element, scaling.stored.name, scaling.cols))
    activation, weight = (folded(fmt) for fmt in sides_of(problem.recipe))
    return "" not in names and activation == weight and activation in taken[0]
