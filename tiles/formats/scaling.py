"""Scaling: which elements of a matrix share a scale, how it is chosen and how it is stored."""

import re
from dataclasses import dataclass
from enum import Enum

from tiles.formats.catalogue import SCALE_ELEMENTS, scale_element
from tiles.formats.elements import ExponentElement, FloatElement
from tiles.formats.rounding import Rounding
from tiles.intake import check_text, nearest, shown

__all__ = ["ScaleRule", "Scaling"]

_FP32 = SCALE_ELEMENTS["fp32"]
_E8M0 = SCALE_ELEMENTS["e8m0fnu"]
#: Elements along K that share a scale in OCP MX v1.0.
MX_BLOCK = 32


class ScaleRule(Enum):
    """How a block's scale follows from its values; the value is the rule's spelling in names."""

    ABSMAX = "absmax"  #: amax / max_element
    POW2 = "pow2"  #: the same, rounded up to a power of two
    MSE = "mse"  #: of 32 scales from amax / max_element down to half of it, the least squared error
    PERCENTILE = "p"  #: absmax of the values that a percentile of magnitudes leaves, by rank
    # The rest choose the exponent of an E8M0 scale.
    FLOOR = "floor"  #: floor(log2 amax) - emax_element: OCP MX v1.0, section 6.3
    CEIL = "ceil"  #: ceil(log2 amax) - emax_element
    RCEIL = "rceil"  #: ceil(log2(amax / max_element)): what cuBLAS and cvt.rp.ue8m0x2 do
    EVEN = "even"  #: FLOOR of amax rounded to the element's mantissa


_E8M0_RULES = (ScaleRule.FLOOR, ScaleRule.CEIL, ScaleRule.RCEIL, ScaleRule.EVEN)
_BLOCK = re.compile(r"b([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_GROUP = re.compile(r"g([1-9][0-9]{0,4})")
_PERCENTILE = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,4})?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Which elements of a matrix share one scale; value = code x scale.

    ``rows`` x ``cols`` elements lie under one scale; ``None`` means the whole extent, so
    ``Scaling(rows=1, cols=None)`` is one scale a row.  Columns run along K, the contraction.
    Blocks never straddle rows; ragged last blocks are scaled by the values they have.
    """

    rows: int | None
    cols: int | None
    stored: FloatElement | ExponentElement = _FP32  #: format of a stored scale
    rule: ScaleRule = ScaleRule.ABSMAX
    percentile: float | None = None  #: in percent, for ``ScaleRule.PERCENTILE``
    two_level: bool = False  #: a further fp32 scale for the whole tensor, as NVFP4 has it

    def __post_init__(self) -> None:
        for name, extent in (("rows", self.rows), ("cols", self.cols)):
            if extent is not None and extent < 1:
                raise ValueError(f"scaling {name} must be at least 1, got {extent}")
        if (self.rows is None) != (self.cols is None) and 1 not in (self.rows, self.cols):
            raise ValueError(
                f"scaling of rows={self.rows}, cols={self.cols}: beside a whole extent comes 1"
            )
        exponent = isinstance(self.stored, ExponentElement)
        if exponent != (self.rule in _E8M0_RULES):
            rules = [r.value for r in ScaleRule if (r in _E8M0_RULES) == exponent]
            raise ValueError(
                f"{self.stored} scales cannot follow the rule {self.rule.value!r}: "
                f"choose one of {', '.join(rules)}"
            )
        if (self.percentile is None) == (self.rule is ScaleRule.PERCENTILE):
            raise ValueError("the percentile rule, and it alone, takes a percentile")
        if self.percentile is not None and not 50 <= self.percentile < 100:
            raise ValueError(f"percentile {self.percentile}: at least 50 and below 100")
        if self.percentile is not None and self.percentile != round(self.percentile, 4):
            raise ValueError(f"percentile {self.percentile}: at most 4 decimals")
        if self.two_level and self.stored.name != "e4m3fn":
            raise ValueError("two levels of scales are for e4m3fn block scales")
        if self.two_level and self.rule is ScaleRule.POW2:
            raise ValueError("two levels of scales make no powers of two: leave out pow2")

    def grid(self, rows: int, cols: int) -> tuple[int, int]:
        """Shape of the scale matrix of a ``rows`` x ``cols`` matrix; ragged last blocks count."""
        return (
            1 if self.rows is None else -(-rows // self.rows),
            1 if self.cols is None else -(-cols // self.cols),
        )

    def rank(self, count: int) -> int:
        """Place of the percentile among ``count`` magnitudes in ascending order, from 1.

        The nearest rank, ceil(percentile / 100 · count), in integers: in floats 99.9 % of 1000
        would be 1000.

        Raises:
            ValueError: the rule is another one.
        """
        if self.percentile is None:
            raise ValueError(f"the rule {self.rule.value!r} has no percentile")
        return max(1, -(-round(self.percentile * 10_000) * count // 1_000_000))

    @property
    def blockwise(self) -> bool:
        """True when scales change along K, so that partial sums are promoted inside the K loop."""
        return self.cols is not None

    @property
    def plain(self) -> bool:
        """True for one level of fp32 scales by absmax."""
        return self.stored == _FP32 and self.rule is ScaleRule.ABSMAX

    @classmethod
    def parse(cls, text: str) -> "Scaling":
        """Read ``tensor``, ``row``, ``col``, ``b<rows>x<cols>``, ``g<cols>`` or ``mx``.

        ``g128`` is ``b1x128`` with fp16 scales, ``mx`` is ``b1x32+e8m0fnu``.  Details follow, each
        after a ``+``: a scale format (``+bf16``), a rule (``+pow2``, ``+mse``, ``+p99.9``,
        ``+rceil``), ``+two-level``.

        Raises:
            ValueError: none of these, or they do not go together.
            TypeError: not a text.
        """
        check_text("a scaling", text)
        base, *details = text.split("+")
        rows, cols, stored = _extents(base, text)
        rule: ScaleRule | None = None
        percentile, two_level = None, False
        kinds: list[str] = []
        for detail in details:
            kinds.append("rule")
            if match := _PERCENTILE.fullmatch(detail):
                rule, percentile = ScaleRule.PERCENTILE, float(match[1])
            elif detail in _RULES:
                rule = _RULES[detail]
            elif detail == "two-level":
                two_level, kinds[-1] = True, "two-level"
            elif detail in SCALE_ELEMENTS:
                stored, kinds[-1] = scale_element(detail), "scale format"
            else:
                raise ValueError(
                    f"unknown detail {shown(detail)} of scaling {shown(text)}: "
                    f"{_detail_meant(detail)}choose one of {', '.join(_DETAILS)}, p<percentile>"
                )
            if kinds[-1] in kinds[:-1]:
                raise ValueError(f"scaling {shown(text)} names a {kinds[-1]} twice: leave one out")
        if rule is None:
            rule = ScaleRule.FLOOR if isinstance(stored, ExponentElement) else ScaleRule.ABSMAX
        return cls(
            rows=rows,
            cols=cols,
            stored=stored,
            rule=rule,
            percentile=percentile,
            two_level=two_level,
        )

    def __str__(self) -> str:
        stored, base = self.stored.name, "tensor" if self.rows is None else "row"
        if self.cols is not None:
            base = "col" if self.rows is None else f"b{self.rows}x{self.cols}"
            if (self.rows, self.cols, stored) == (1, MX_BLOCK, "e8m0fnu"):
                base, stored = "mx", "fp32"
            elif self.rows == 1 and stored == "fp16":
                base, stored = f"g{self.cols}", "fp32"
        words = [base]
        if stored != "fp32":
            words.append(stored)
        if self.percentile is not None:
            words.append(f"p{self.percentile:g}")
        elif self.rule not in (ScaleRule.ABSMAX, ScaleRule.FLOOR):
            words.append(self.rule.value)
        if self.two_level:
            words.append("two-level")
        return "+".join(words)


#: What may stand behind a ``+``; roundings and overflow belong to the tensor format.
_RULES = {rule.value: rule for rule in ScaleRule if rule is not ScaleRule.PERCENTILE}
_DETAILS = (
    *SCALE_ELEMENTS,
    *_RULES,
    "two-level",
    *(rounding.value for rounding in Rounding if rounding is not Rounding.NEAREST_EVEN),
    "nosat",
)


#: What people call details, and the notation's word for it; told, never taken.
_SPOKEN = {
    "stochastic": "sr",
    "truncate": "rtz",
    "half-away": "away",
    "power-of-two": "pow2",
    "amax": "absmax",
    "max": "absmax",
    "e8m0": "e8m0fnu",
    "ue8m0": "e8m0fnu",
}


def _detail_meant(detail: str) -> str:
    """What an unknown detail may stand for; empty when nothing comes to mind."""
    if re.fullmatch(r"p[0-9.]+", detail):
        return "a percentile is at least 50 and below 100, with at most 4 decimals: "
    if detail in ("rne", "nearest", "rtne"):
        return "rounding to the nearest even code is never written: leave it out, or "
    found = _SPOKEN.get(detail.lower())
    return f"did you mean {found!r}? " if found else nearest(detail, _DETAILS)


def _extents(base: str, text: str) -> tuple[int | None, int | None, FloatElement | ExponentElement]:
    named: dict[str, tuple[int | None, int | None]] = {
        "tensor": (None, None),
        "row": (1, None),
        "col": (None, 1),
        "mx": (1, MX_BLOCK),
    }
    if base in named:
        return *named[base], _E8M0 if base == "mx" else _FP32
    if match := _BLOCK.fullmatch(base):
        return int(match[1]), int(match[2]), _FP32
    if match := _GROUP.fullmatch(base):
        return 1, int(match[1]), SCALE_ELEMENTS["fp16"]
    raise ValueError(
        f"unknown scaling {shown(text)}: {nearest(base, named)}write tensor, row, col, mx, g<cols> "
        "or b<rows>x<cols>, e.g. b1x128"
    )
