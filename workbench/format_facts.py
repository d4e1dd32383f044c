"""What there is to say of every number format and recipe, read off the code.

The tables of ``workbench formats``, its JSON and ``docs/formats.md`` are made of these.
"""

import math
from typing import Any

from tiles.formats import (
    ELEMENTS,
    SCALE_ELEMENTS,
    CodebookElement,
    ElementFormat,
    ExponentElement,
    FloatElement,
    IntElement,
    PositElement,
    Rounding,
    ScaleRule,
    Specials,
    TensorFormat,
)
from tiles.recipes import RECIPES, Recipe

__all__ = [
    "ELEMENT_COLUMNS",
    "ELEMENT_SOURCES",
    "RECIPE_COLUMNS",
    "ROUNDINGS",
    "RULES",
    "bits_per_element",
    "element_cells",
    "formats_dict",
    "recipe_cells",
    "scale_cells",
]

SCHEMA = "tile-workbench/formats/2"
#: Matrix that bits per element are counted on; scales of a whole tensor vanish there.
EXTENT = 4096

_OFP8 = "OCP OFP8 v1.0"
_MX = "OCP MX v1.0"
_IEEE = "IEEE 754-2019"
_FNUZ = "arXiv 2206.02915"
_PTQ = "arXiv 2309.14592"
_POSIT = "Posit Standard 2022"
_WORKBENCH = "two's complement, symmetric"
ELEMENT_SOURCES = {
    "fp32": _IEEE,
    "tf32": "NVIDIA A100 whitepaper",
    "bf16": "arXiv 1905.12322",
    "fp16": _IEEE,
    "e5m2": _OFP8,
    "e4m3fn": _OFP8,
    "e4m3": f"{_IEEE} rules",
    "e5m2fnuz": _FNUZ,
    "e4m3fnuz": _FNUZ,
    "e4m3b11fnuz": "ml_dtypes",
    "e3m4fn": _PTQ,
    "e3m4": f"{_IEEE} rules",
    "e3m2fn": _MX,
    "e2m3fn": _MX,
    "e2m1fn": _MX,
    "int8": _WORKBENCH,
    "uint8": "asymmetric",
    "int4": "symmetric, stored + 8",
    "uint4": "asymmetric",
    "mxint8": _MX,
    "posit8es0": f"draft before {_POSIT}",
    "posit8es1": f"draft before {_POSIT}",
    "posit8es2": _POSIT,
    "nf4": "QLoRA, arXiv 2305.14314",
}

RULES: dict[ScaleRule, str] = {
    ScaleRule.ABSMAX: "amax / max_element; unsigned integers: (max - min) / max_element, 0 counted",
    ScaleRule.POW2: "amax / max_element, rounded up to a power of two",
    ScaleRule.MSE: "of 32 scales from amax / max_element down to half of it, the one of least "
    "squared error; the larger where two are equal",
    ScaleRule.PERCENTILE: "as absmax, of the magnitude of rank ceil(p / 100 x n) among a block's n",
    ScaleRule.FLOOR: "2^(floor(log2 amax) - emax_element): OCP MX v1.0, section 6.3; "
    "the largest values may saturate",
    ScaleRule.CEIL: "2^(ceil(log2 amax) - emax_element)",
    ScaleRule.RCEIL: "2^ceil(log2(amax / max_element)): cuBLAS, cvt.rp.ue8m0x2",
    ScaleRule.EVEN: "FLOOR of amax rounded to the element's mantissa bits",
}

ROUNDINGS: dict[Rounding, str] = {
    Rounding.NEAREST_EVEN: "to the nearest, ties to the even code; the default, never written",
    Rounding.NEAREST_AWAY: "to the nearest, ties to the larger magnitude",
    Rounding.TOWARD_ZERO: "to the smaller magnitude",
    Rounding.STOCHASTIC: "to the larger magnitude with the probability of the distance from the "
    "smaller, by 16 random bits",
}

ELEMENT_COLUMNS = (
    *("name", "bits", "sign", "exp.", "mant.", "bias", "max", "min normal", "min subnormal"),
    *("eps", "NaN", "Inf", "NaN codes", "source"),
)
RECIPE_COLUMNS = ("name", "activations", "weights", "gradients", "output", "residual", "update")


def number(value: float) -> str:
    """A value as people write it: fractions and large numbers that are powers of two as such."""
    fraction, exponent = math.frexp(value)
    if fraction == 0.5 and not 1 <= value < 1e4:
        return f"2^{exponent - 1}"
    return f"{value:.7g}"


def _float_specials(one: FloatElement) -> tuple[str, str, str]:
    """The NaN code that is written, the code of plus infinity, the number of NaN codes."""
    signs = 2 if one.signed else 1
    digits = -(-one.bits // 4)
    infinity = "-" if one.inf_code is None else f"0x{one.inf_code:0{digits}x}"
    if one.nan_code is None:
        return "-", infinity, "-"
    count = {
        Specials.IEEE: signs * (2**one.mantissa_bits - 1),
        Specials.FN: signs,
        Specials.FNUZ: 1,
    }[one.specials]
    return f"0x{one.nan_code:0{digits}x}", infinity, str(count)


def element_cells(one: ElementFormat) -> tuple[str, ...]:
    """One row of the table of elements, in the order of ``ELEMENT_COLUMNS``."""
    return (one.name, str(one.bits), *_shape_cells(one), ELEMENT_SOURCES.get(one.name, "-"))


def _shape_cells(one: ElementFormat) -> tuple[str, ...]:
    top, least = number(one.max), number(one.min_subnormal)
    match one:
        case FloatElement():
            fields = map(str, (one.exponent_bits, one.mantissa_bits, one.bias))
            normal, epsilon = number(2.0**one.min_exponent), number(one.epsilon)
            sign = "yes" if one.signed else "no"
            return (sign, *fields, top, normal, least, epsilon, *_float_specials(one))
        case PositElement():
            epsilon, nar = number(2.0**-one.mantissa_bits), f"0x{one.nan_code:02x}"
            mantissa = f"0-{one.mantissa_bits}"
            return ("yes", f"es {one.es}", mantissa, "-", top, "-", least, epsilon, nar, "-", "1")
        case IntElement():
            sign = "yes" if one.signed else "no"
            return (sign, "-", "-", "-", top, "-", least, least, "-", "-", "-")
        case CodebookElement():
            return ("yes", "-", "-", "-", top, "-", least, "-", "-", "-", "-")


def scale_cells(one: FloatElement | ExponentElement) -> tuple[str, str, str, str, str]:
    """Name, bits, largest and smallest value, and what is special about a scale format."""
    if isinstance(one, ExponentElement):
        note = f"2^(code - {one.bias}), no zero; 0x{one.nan_code:02x} is NaN"
    else:
        note = "saturates; a scale that would be 0 is 1"
    return one.name, str(one.bits), number(one.max), number(one.min_subnormal), note


def bits_per_element(fmt: TensorFormat) -> float:
    """Stored bits an element of a 4096 x 4096 matrix: packed codes, scales and zero points."""
    return fmt.storage_bytes(EXTENT, EXTENT) * 8 / EXTENT**2


def recipe_cells(one: Recipe) -> tuple[str, ...]:
    """One row of the table of recipes, in the order of ``RECIPE_COLUMNS``."""
    gradient = str(one.gradient) if one.trains else "-"
    update = str(one.update) if one.trains else "inference"
    formats = (one.activation, one.weight, gradient, one.output, one.residual)
    return (one.name, *map(str, formats), update)


def _element_dict(one: ElementFormat) -> dict[str, Any]:
    common = {"bits": one.bits, "max": one.max, "min": one.min_subnormal}
    source = {"source": ELEMENT_SOURCES.get(one.name)}
    match one:
        case FloatElement():
            kind: dict[str, Any] = {
                "kind": "float",
                "signed": one.signed,
                "exponent_bits": one.exponent_bits,
                "mantissa_bits": one.mantissa_bits,
                "bias": one.bias,
                "specials": one.specials.value,
                "min_normal": 2.0**one.min_exponent,
                "epsilon": one.epsilon,
            }
        case PositElement():
            kind = {"kind": "posit", "signed": True, "es": one.es}
        case IntElement():
            kind = {
                "kind": "integer",
                "signed": one.signed,
                "fraction_bits": one.fraction_bits,
                "offset": one.offset,
            }
        case CodebookElement():
            kind = {"kind": "codebook", "signed": True, "values": list(one.values)}
    return kind | common | source


def _recipe_dict(one: Recipe) -> dict[str, Any]:
    return {
        "activation": str(one.activation),
        "weight": str(one.weight),
        "gradient": str(one.gradient) if one.trains else None,
        "output": str(one.output),
        "residual": str(one.residual),
        "update": str(one.update) if one.trains else None,
        "outliers": None if one.outliers is None else str(one.outliers),
        "activation_bits": bits_per_element(one.activation),
        "weight_bits": bits_per_element(one.weight),
        "source": one.source,
    }


def formats_dict() -> dict[str, Any]:
    """Everything of ``workbench formats``, JSON-ready with a schema version."""
    return {
        "schema": SCHEMA,
        "elements": {name: _element_dict(one) for name, one in ELEMENTS.items()},
        "scale_formats": {
            name: {"bits": one.bits, "max": one.max, "min": one.min_subnormal}
            for name, one in SCALE_ELEMENTS.items()
        },
        "scale_rules": {rule.value: text for rule, text in RULES.items()},
        "roundings": {rounding.value: text for rounding, text in ROUNDINGS.items()},
        "recipes": {name: _recipe_dict(one) for name, one in RECIPES.items()},
    }
