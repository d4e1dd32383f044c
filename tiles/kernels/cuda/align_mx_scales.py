"""Launch the alignment of ``align_mx_scales.cu``: MX operands brought to scales of 1x128.

**What it costs.**  Of four neighbouring blocks of 32 codes let S be the largest scale, a power of
two, and s = S 2^-d that of a block.  The block's codes c become c 2^-d, rounded to nearest even in
their own format.  With p significand bits and normal codes from 2^e on, numbers of at least 2^e
are rounded to p bits, and c has no more: exact.  Below 2^e codes are multiples of 2^(e - p + 1),
and the result is off by at most half of that.  Times S, a value is off by at most

    2^(e - p) S: of e4m3fn (e = -6, p = 4) 2^-10 S, of e5m2 (e = -14, p = 3) 2^-17 S,

and not at all where d is not above 0.

S is not larger than the values ask for: a block whose largest code lies r exponents below the
format's last but one (2^7, 2^14) counts with the scale s 2^-r, under which its codes, 2^r as large,
are numbers of the format as well.  So the 128 hold a value of at least 2^7 S (2^14 S), and nothing
is off by more than 2^-17 (2^-31) of the largest of them; r ends at 14, and where it would be larger
that is 2^-15.  Quantising to MX leaves codes of the last two exponents in every block that is not
zero: r is 0.

Hopper's tensor cores, which keep some 14 bits when they add products, lose more than that in each
sum that the largest value takes part in; a sum in which zeros meet it can be off by more than they
lose.  OCP MX v1.0 leaves the precision inside of a dot product to the implementation.

Blocks of zeros do not count for S.  Codes of NaN and infinity stay as they are; a block whose scale
is NaN (0xFF) makes S NaN, and with it everything that the 128 are multiplied into.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .compiler_options import macro_options
from .hopper_formats import ARCHITECTURE, ELEMENTS, QUANT
from .launches import functions, run

__all__ = ["ERRORS", "PARAMETERS", "Side", "ctas", "launch", "options", "parameters"]

SOURCE = "align_mx_scales.cu"
#: Elements that are aligned, and the largest error of a code in units of the new scale.
ERRORS = {"e4m3fn": 2.0**-10, "e5m2": 2.0**-17}
#: Rows of a CTA, and how often 128 of K.
ROWS, CHUNKS, THREADS = 32, 4, 256
#: CTAs that a launch counts.
MAX_CTAS = 2**31 - 1

_SIDE = np.dtype(
    [
        *((name, np.uint64) for name in ("codes", "scales", "out", "out_scales")),
        *((name, np.int64) for name in ("pitch", "out_pitch", "apart", "rows")),
    ]
)
#: ``Operands`` of the source.
PARAMETERS = np.dtype([("a", _SIDE), ("b", _SIDE), ("k", np.int64), ("a_ctas", np.int64)])


class Side(NamedTuple):
    """An operand before and after; places are addresses in the device's memory."""

    codes: int  #: rows of K bytes that begin at multiples of 16
    scales: int  #: E8M0, row-major, ceil(K / 32) a row
    out: int
    out_scales: int  #: fp32, rows side by side, ceil(K / 128) columns
    pitch: int  #: bytes from one row of codes to the next
    out_pitch: int
    apart: int  #: scales from one column of the new ones to the next
    rows: int


def options(element: str) -> tuple[str, ...]:
    """Compiler options for an element.

    Raises:
        ValueError: there are no such codes to align.
    """
    if element not in ERRORS:
        raise ValueError(f"element {element!r}: choose one of {', '.join(ERRORS)}")
    return macro_options({"ELEMENT": ELEMENTS.index(element), "CHUNKS": CHUNKS}, ARCHITECTURE)


def ctas(rows: int, k: int) -> int:
    """CTAs for an operand."""
    return -(-rows // ROWS) * -(-k // (QUANT * CHUNKS))


def parameters(sides: Sequence[Side], k: int) -> tuple[int, Any]:
    """CTAs of a launch for both operands, and the kernel's parameters.

    Raises:
        ValueError: more CTAs than a launch has.
    """
    counts = [ctas(side.rows, k) for side in sides]
    if sum(counts) > MAX_CTAS:
        raise ValueError(f"{sum(counts)} CTAs align the operands: at most {MAX_CTAS} fit a launch")
    made = np.zeros((), PARAMETERS)
    made["a"], made["b"] = (tuple(side) for side in sides)
    made["k"], made["a_ctas"] = k, counts[0]
    return sum(counts), made[()]


def launch(device: int, sides: Sequence[Side], k: int, *, element: str, stream: Any = None) -> None:
    """Write aligned codes and scales of A and B, on the current device.

    Args:
        device: its number.
        sides: A's and B's.
        k: K, a multiple of 16; the last block of 32 and the last 128 may be shorter.
        element: of the codes.
    Raises:
        ValueError: the element, or K; the operands are too large.
    """
    if k % 16:
        raise ValueError(f"K = {k}: rows of codes are read 16 bytes at a time")
    count, held = parameters(sides, k)
    (kernel,) = functions(device, SOURCE, options(element), ("align_mx_scales",))
    run(kernel, count, THREADS, (held,), stream=stream)
