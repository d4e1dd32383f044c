"""The named element formats, and the spelling of the parametric ones.

Sources: OCP OFP8 v1.0 (e4m3fn, e5m2); OCP MX v1.0 (e3m2fn, e2m3fn, e2m1fn, mxint8, e8m0fnu);
IEEE 754-2019 (fp16, fp32, and the rules that e4m3 and e3m4 follow); "8-bit Numerical Formats for
Deep Neural Networks", arXiv 2206.02915 (the fnuz variants); "Efficient Post-training Quantization
with FP8 Formats", arXiv 2309.14592 (e3m4fn); Posit Standard 2022 (posit8es2; es 0 and 1 are those
of earlier drafts); "QLoRA", arXiv 2305.14314, appendix E (nf4); "FFP8", arXiv 2104.07329 (free
split and bias).
"""

import re
from collections.abc import Iterable

from tiles.entry_points import offered
from tiles.formats.elements import (
    CodebookElement,
    ElementFormat,
    ExponentElement,
    FloatElement,
    IntElement,
    PositElement,
    Specials,
)
from tiles.intake import check_text, nearest, shown

__all__ = ["ELEMENTS", "SCALE_ELEMENTS", "element", "scale_element"]

ENTRY_POINTS = "tile_workbench.formats"

#: Quantiles of the normal distribution, scaled to [-1, 1] and rounded to fp32; 0 is among them.
_NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def _float(
    name: str, exponent_bits: int, mantissa_bits: int, bias: int, specials: Specials
) -> FloatElement:
    return FloatElement(
        name=name,
        bits=1 + exponent_bits + mantissa_bits,
        precision=mantissa_bits + 1,
        bias=bias,
        specials=specials,
    )


_IEEE, _FN, _FNUZ, _NONE = Specials.IEEE, Specials.FN, Specials.FNUZ, Specials.NONE

ELEMENTS: dict[str, ElementFormat] = {
    e.name: e
    for e in (
        _float("fp32", 8, 23, 127, _IEEE),
        _float("tf32", 8, 10, 127, _IEEE),
        _float("bf16", 8, 7, 127, _IEEE),
        _float("fp16", 5, 10, 15, _IEEE),
        _float("e5m2", 5, 2, 15, _IEEE),
        _float("e4m3fn", 4, 3, 7, _FN),
        _float("e4m3", 4, 3, 7, _IEEE),
        _float("e5m2fnuz", 5, 2, 16, _FNUZ),
        _float("e4m3fnuz", 4, 3, 8, _FNUZ),
        _float("e4m3b11fnuz", 4, 3, 11, _FNUZ),
        _float("e3m4fn", 3, 4, 3, _FN),
        _float("e3m4", 3, 4, 3, _IEEE),
        _float("e3m2fn", 3, 2, 3, _NONE),
        _float("e2m3fn", 2, 3, 1, _NONE),
        _float("e2m1fn", 2, 1, 1, _NONE),
        IntElement(name="int8", bits=8),
        IntElement(name="uint8", bits=8, signed=False),
        IntElement(name="int4", bits=4, offset=8),
        IntElement(name="uint4", bits=4, signed=False),
        IntElement(name="mxint8", bits=8, fraction_bits=6),
        PositElement(name="posit8es0", bits=8, es=0),
        PositElement(name="posit8es1", bits=8, es=1),
        PositElement(name="posit8es2", bits=8, es=2),
        CodebookElement(name="nf4", bits=4, values=_NF4),
    )
}

#: Formats that scales are stored in.
SCALE_ELEMENTS: dict[str, FloatElement | ExponentElement] = {
    "fp32": _float("fp32", 8, 23, 127, _IEEE),
    "fp16": _float("fp16", 5, 10, 15, _IEEE),
    "bf16": _float("bf16", 8, 7, 127, _IEEE),
    "e4m3fn": _float("e4m3fn", 4, 3, 7, _FN),
    "e8m0fnu": ExponentElement(name="e8m0fnu", bits=8, bias=127),
}

#: ``e4m3``, ``e4m3b9fnuz``, ``e2m5fn``.
_FLOAT = re.compile(r"e([1-8])m([1-9]|10)(?:b(-?[0-9]{1,3}))?(fn|fnuz|)")
#: ``ffp8_e3m4b5``, ``ffp8_ue4m4``: eight bits, no specials.
_FFP8 = re.compile(r"ffp8_(u?)e([1-7])m([1-7])(?:b(-?[0-9]{1,3}))?")
#: ``int3``, ``uint6``.
_INT = re.compile(r"(u?)int([1-9][0-9]?)")
#: ``posit16es1``.
_POSIT = re.compile(r"posit([1-9][0-9]?)es([0-9])")
_MAX_BITS = 16
#: Their bias, by name: without ``fn`` they would be taken for formats of half their range.
_SUB_BYTE = {"e3m2fn": 3, "e2m3fn": 1, "e2m1fn": 1}
#: What people call formats, and the notation's word for it; told, never taken.
_SPOKEN = {
    "fp8": "e4m3fn",
    "float8": "e4m3fn",
    "fp6": "e3m2fn",
    "fp4": "e2m1fn",
    "mxfp8": "e4m3fn.mx",
    "mxfp6": "e3m2fn.mx",
    "mxfp4": "e2m1fn.mx",
    "nvfp4": "nvfp4",
    "half": "fp16",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
}


def _parametric(name: str) -> ElementFormat | None:
    """The integer, posit or float that a name spells out; None when it spells none."""
    if match := _INT.fullmatch(name):
        signed, bits = not match[1], int(match[2])
        # Below a byte symmetric integers are stored unsigned about their middle, as int4 is.
        offset = 2 ** (bits - 1) if signed and bits < 8 else 0
        return IntElement(name=name, bits=bits, signed=signed, offset=offset)
    if match := _POSIT.fullmatch(name):
        return PositElement(name=name, bits=int(match[1]), es=int(match[2]))
    return _parametric_float(name)


def _parametric_float(name: str) -> FloatElement | None:
    if match := _FLOAT.fullmatch(name):
        if name + "fn" in _SUB_BYTE:
            raise ValueError(
                f"element {name!r}: write {name}fn for the format of OCP MX v1.0, or the bias for "
                f"one with infinity and NaN, e.g. {name}b{_SUB_BYTE[name + 'fn']}"
            )
        unsigned, exponent, mantissa, bias, suffix = "", *match.groups()
        specials = Specials(suffix or "ieee")
        # Below a byte the fn formats of OCP MX v1.0 have no NaN either.
        if specials is Specials.FN and int(exponent) + int(mantissa) < 7:
            specials = Specials.NONE
    elif match := _FFP8.fullmatch(name):
        unsigned, exponent, mantissa, bias = match.groups()
        specials = Specials.NONE
    else:
        return None
    bits = int(exponent) + int(mantissa) + (0 if unsigned else 1)
    if name.startswith("ffp8") and bits != 8:
        raise ValueError(f"element {name!r}: sign, exponent and mantissa must make 8 bits")
    if bits > _MAX_BITS:
        raise ValueError(f"element {name!r}: {bits} bits: at most {_MAX_BITS}")
    # As in IEEE 754; the fnuz formats of arXiv 2206.02915 have one more.
    usual = 2 ** (int(exponent) - 1) - (0 if specials is Specials.FNUZ else 1)
    fmt = FloatElement(
        name=name,
        bits=bits,
        precision=int(mantissa) + 1,
        bias=usual if bias is None else int(bias),
        specials=specials,
        signed=not unsigned,
    )
    # Codes are computed from fp32, whose values and midpoints must be exact there.
    if fmt.min_exponent - fmt.precision < -149 or fmt.max_exponent > 126:
        raise ValueError(f"element {name!r}: bias {fmt.bias} moves its values out of fp32's range")
    return fmt


def _third_party(name: str) -> ElementFormat | None:
    """A format that an installed distribution offers under the entry point group."""
    for where, found in offered(ENTRY_POINTS, name):
        if not isinstance(found, ElementFormat) or found.name != name:
            raise ValueError(
                f"entry point {where!r} of {ENTRY_POINTS} is no element format named {name!r}"
            )
        return found
    return None


def element(name: str) -> ElementFormat:
    """Look an element format up by name, or make the one that a parametric name spells out.

    Parametric names are ``e<E>m<M>[b<bias>][fn|fnuz]`` (without suffix: IEEE rules; ``fn`` below a
    byte: every code finite, as in OCP MX),
    ``ffp8_[u]e<E>m<M>[b<bias>]`` (eight bits, every code finite, ``u`` without sign),
    ``[u]int<N>`` (2 to 16 bits) and ``posit<N>es<E>`` (3 to 16 bits, up to 4 of them exponent).

    Raises:
        ValueError: no such format; the message names the nearest and lists those there are.
        TypeError: not a text.
    """
    check_text("an element format", name)
    # Third parties last: looking through what is installed takes longer than all the rest.
    found = ELEMENTS.get(name) or _parametric(name) or _third_party(name)
    if found is None:
        raise ValueError(_unknown("element format", name, ELEMENTS, _spoken(name)))
    return found


def _spoken(name: str) -> str:
    """What a name that is no element's may stand for; empty when nothing comes to mind."""
    if name.lower().removeprefix("float8_") in ("e8m0fnu", "e8m0", "ue8m0"):
        return "e8m0fnu stores scales alone, as in e4m3fn.mx or e4m3fn.b1x16+e8m0fnu: "
    found = _SPOKEN.get(name.lower().split("-")[0])
    if re.fullmatch(r"posit(?:[3-9]|1[0-6])", name.lower()):
        found = f"{name.lower()}es2"  # the Posit Standard's
    return f"did you mean {found!r}? " if found else ""


def scale_element(name: str) -> FloatElement | ExponentElement:
    """Look a scale format up by name.

    Raises:
        ValueError: no such format.
        TypeError: not a text.
    """
    check_text("a scale format", name)
    if name not in SCALE_ELEMENTS:
        raise ValueError(_unknown("scale format", name, SCALE_ELEMENTS))
    return SCALE_ELEMENTS[name]


def _unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> str:
    hint = hint or nearest(name, known)
    return f"unknown {kind} {shown(name)}: {hint}choose one of {', '.join(known)}"
