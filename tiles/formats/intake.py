"""What callers hand to the element codecs: arrays of numbers, of codes, formats and seeds.

Each is refused by name and rule before anything is computed with it.
"""

from typing import Any

import numpy as np

from tiles.formats.elements import (
    CodebookElement,
    ElementFormat,
    ExponentElement,
    FloatElement,
    IntElement,
    PositElement,
)
from tiles.formats.rounding import Rounding
from tiles.intake import shown

__all__ = ["check_codes", "check_encode", "code_beyond"]

_ELEMENTS = (FloatElement, IntElement, PositElement, CodebookElement)


def check_encode(x: object, fmt: object, rounding: object, random: Any) -> None:
    """Refuse what ``encode`` cannot take.

    Raises:
        TypeError: no float32 array, no element format, no :class:`Rounding`, or random bits that
            are not uint32.
        ValueError: random bits are missing, of another shape, or not asked for.
    """
    _check_format("encode", fmt, _ELEMENTS)
    if not isinstance(x, np.ndarray | np.generic):
        raise TypeError(f"encode takes a float32 array, got {type(x).__name__}: make it one")
    if x.dtype != np.float32:
        raise TypeError(f"encode takes float32, got {x.dtype}: cast it first")
    if not isinstance(rounding, Rounding):
        raise TypeError(f"encode takes a Rounding, got {shown(rounding)}: make it one")
    if (random is None) == (rounding is Rounding.STOCHASTIC):
        raise ValueError("stochastic rounding, and it alone, takes random bits")
    if random is None:
        return
    if not isinstance(random, np.ndarray | np.generic) or random.dtype != np.uint32:
        raise TypeError(
            f"random bits are uint32, got {getattr(random, 'dtype', type(random).__name__)}: "
            "draw them with random_bits"
        )
    if random.shape != x.shape:
        raise ValueError(
            f"random bits of shape {random.shape} beside numbers of shape {x.shape}: "
            "draw one word an element"
        )


def check_codes(codes: object, fmt: object) -> None:
    """Refuse what ``decode`` cannot take.

    Raises:
        TypeError: no array of unsigned integers, or no format.
    """
    _check_format("decode", fmt, (*_ELEMENTS, ExponentElement))
    if not isinstance(codes, np.ndarray | np.generic):
        raise TypeError(f"decode takes an array of codes, got {type(codes).__name__}: make it one")
    if codes.dtype.kind != "u":
        raise TypeError(
            f"decode takes bit patterns in unsigned integers, got {codes.dtype}: view them so"
        )


def code_beyond(codes: Any, fmt: ElementFormat | ExponentElement) -> ValueError:
    """The error that tells the first of ``codes`` that needs more bits than the format has."""
    flat = np.asarray(codes).reshape(-1)
    at = int(np.argmax(flat >= 1 << fmt.bits))
    return ValueError(
        f"code {flat[at]:#x} at place {at}: {fmt} has {fmt.bits} bits, codes up to "
        f"{(1 << fmt.bits) - 1:#x}: pass the format that the codes were made with"
    )


def _check_format(what: str, fmt: object, kinds: tuple[type, ...]) -> None:
    if isinstance(fmt, kinds):
        return
    if isinstance(fmt, ExponentElement):
        raise TypeError(f"{what} takes no scale format such as {fmt}: quantize makes its codes")
    raise TypeError(f"{what} takes an element format, got {shown(fmt)}: look it up with element()")
