"""Tensor formats: an element format plus the rule by which elements share scales."""

from dataclasses import dataclass

from tiles.formats.catalogue import element
from tiles.formats.elements import (
    CodebookElement,
    ElementFormat,
    ExponentElement,
    IntElement,
    PositElement,
)
from tiles.formats.encode import can_overflow
from tiles.formats.rounding import Rounding
from tiles.formats.scaling import ScaleRule, Scaling
from tiles.intake import check_text, shown

__all__ = ["TensorFormat"]

_NO_SATURATION = "nosat"
NVFP4 = "e2m1fn.b1x16+e4m3fn+two-level"
_ROUNDINGS = {r.value: r for r in Rounding if r is not Rounding.NEAREST_EVEN}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFormat:
    """How a tensor is stored: element format, scaling (``None``: plain, unscaled) and rounding.

    Stored scales saturate in every format; ``saturate`` is about the elements.
    """

    element: ElementFormat
    scaling: Scaling | None = None
    rounding: Rounding = Rounding.NEAREST_EVEN
    saturate: bool = True  #: False: elements beyond the range become infinity, or NaN without one

    def __post_init__(self) -> None:
        if not self.saturate and not can_overflow(self.element):
            raise ValueError(
                f"{self.element} has no code for what lies beyond its range: it always saturates, "
                f"leave out {_NO_SATURATION}"
            )
        if self.scaling is None:
            return
        if not self.saturate and self.scaling.rule in (ScaleRule.MSE, ScaleRule.PERCENTILE):
            raise ValueError(
                f"the rule {self.scaling.rule.value!r} counts on numbers that saturate: "
                f"leave out {_NO_SATURATION}, or choose another rule"
            )
        if self.asymmetric and not (self.scaling.plain or self.scaling.rule is ScaleRule.ABSMAX):
            raise ValueError(f"{self.element} has zero points, which go with absmax scales only")
        if self.asymmetric and self.element.bits > 8:
            raise ValueError(
                f"{self.element} has zero points, which take a byte: use at most uint8, "
                f"or int{self.element.bits}"
            )
        if self.scaling.two_level and self.element.name != "e2m1fn":
            raise ValueError(f"two levels of scales are for e2m1fn, not {self.element}")
        if isinstance(self.element, CodebookElement) and isinstance(
            self.scaling.stored, ExponentElement
        ):
            raise ValueError(f"{self.element} has no exponent: it takes no E8M0 scales")
        if isinstance(self.element, PositElement):
            raise ValueError(
                f"{self.element} is most precise near 1, so absmax scaling would lose by it: "
                "write it without scaling"
            )

    @property
    def asymmetric(self) -> bool:
        """True when each scale has a zero point beside it: value = (code - zero) x scale."""
        return isinstance(self.element, IntElement) and not self.element.signed

    @property
    def plain(self) -> bool:
        """True when codes follow from fp32 absmax scales, or none, by saturating nearest even."""
        scaled_plainly = self.scaling is None or self.scaling.plain
        nearest = self.rounding is Rounding.NEAREST_EVEN and self.saturate
        return scaled_plainly and nearest and not self.asymmetric

    @classmethod
    def parse(cls, text: str) -> "TensorFormat":
        """Read ``element``, ``element.scaling`` or ``nvfp4``, with details behind ``+``.

        Examples: ``bf16``, ``e4m3fn.b1x128``, ``int8.b32x32+sr``, ``e2m1fn.mx+rceil``, ``bf16+sr``.
        Roundings are ``+sr``, ``+rtz`` and ``+away``; ``+nosat`` lets elements overflow.

        Raises:
            ValueError: unknown element or scaling, or they do not go together.
            TypeError: not a text.
        """
        check_text("a tensor format", text)
        words = text.split("+")
        roundings = [_ROUNDINGS[word] for word in words[1:] if word in _ROUNDINGS]
        if len(roundings) > 1:
            raise ValueError(f"{text!r} names two roundings: leave one out")
        if words.count(_NO_SATURATION) > 1:
            raise ValueError(f"{text!r} names {_NO_SATURATION} twice: leave one out")
        own = (*_ROUNDINGS, _NO_SATURATION)
        rest = "+".join([words[0], *(word for word in words[1:] if word not in own)])
        if rest.split("+")[0] == "nvfp4":
            rest = NVFP4 + rest.removeprefix("nvfp4")
        elif rest.startswith("nvfp4."):
            raise ValueError(
                f"{shown(text)}: nvfp4 has its blocks already, 1 x 16 under two levels of scales: "
                f"write nvfp4, or e2m1fn{shown(rest.removeprefix('nvfp4'))[1:-1]}"
            )
        name, dot, scaling = rest.partition(".")
        return cls(
            element=element(name),
            scaling=Scaling.parse(scaling) if dot else None,
            rounding=roundings[0] if roundings else Rounding.NEAREST_EVEN,
            saturate=_NO_SATURATION not in words[1:],
        )

    def scale_count(self, rows: int, cols: int) -> int:
        """Number of scales that a ``rows`` x ``cols`` matrix carries, the tensor's own aside."""
        if self.scaling is None:
            return 0
        grid = self.scaling.grid(rows, cols)
        return grid[0] * grid[1]

    def storage_bytes(self, rows: int, cols: int) -> int:
        """Bytes of packed codes, scales and zero points of a ``rows`` x ``cols`` matrix."""
        scales = self.scale_count(rows, cols)
        # tf32 has no storage of its own: its numbers lie in fp32 words.
        width = 32 if self.element.bits > 16 else self.element.bits
        size = rows * (-(-cols * width // 8))
        if self.scaling is not None:
            size += scales * self.scaling.stored.bits // 8 + 4 * self.scaling.two_level
        if self.asymmetric:
            size += -(-scales * self.element.bits // 8)
        return size

    def __str__(self) -> str:
        text = self.element.name if self.scaling is None else f"{self.element.name}.{self.scaling}"
        if text == NVFP4:
            text = "nvfp4"
        if self.rounding is not Rounding.NEAREST_EVEN:
            text = f"{text}+{self.rounding.value}"
        return text if self.saturate else f"{text}+{_NO_SATURATION}"
