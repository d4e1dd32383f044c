"""How a tensor core adds up a product of 8-bit floats."""

import re
from dataclasses import dataclass
from typing import ClassVar

__all__ = ["Accumulation"]

#: What Hopper's accumulator keeps of a sum of 8-bit floats, and the elements along K it adds at a
#: time: "around 14 bits" (DeepSeek-V3, arXiv 2412.19437, sections 3.3.2 and 3.5.2).
HOPPER_FP8_BITS = 14
HOPPER_FP8_DEPTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulation:
    """The arithmetic of the sums along K."""

    significand_bits: int | None = None  #: kept of each addend; ``None``: exact, in fp64
    depth: int = HOPPER_FP8_DEPTH  #: elements along K of one MMA instruction
    interval: int | None = None  #: elements along K between promotions to fp32; ``None``: never

    EXACT: ClassVar["Accumulation"]
    HOPPER_FP8: ClassVar["Accumulation"]
    HOPPER_FP8_PROMOTED: ClassVar["Accumulation"]

    def __post_init__(self) -> None:
        if self.significand_bits is None:
            if self.interval is not None:
                raise ValueError("exact sums are not promoted: leave the interval out")
        elif not 4 <= self.significand_bits <= 24:
            raise ValueError(f"significand of {self.significand_bits} bits: 4 to 24, or none")
        if self.depth < 1:
            raise ValueError(f"an instruction of depth {self.depth}: at least 1")
        if self.interval is not None and (self.interval < 1 or self.interval % self.depth):
            raise ValueError(
                f"promotion every {self.interval} of K: take a multiple of {self.depth}, the depth "
                "of an instruction"
            )

    @classmethod
    def parse(cls, text: str) -> "Accumulation":
        """Read ``exact``, ``hopper-fp8`` or ``hopper-fp8+128``, promoted every 128 of K.

        Raises:
            ValueError: none of these.
        """
        if text == "exact":
            return cls.EXACT
        match = re.fullmatch(r"hopper-fp8(?:\+([1-9][0-9]{0,5}))?", text)
        if match is None:
            raise ValueError(
                f"unknown accumulation {text!r}: choose exact, hopper-fp8 or hopper-fp8+128"
            )
        return cls(
            significand_bits=HOPPER_FP8_BITS, interval=None if match[1] is None else int(match[1])
        )

    def __str__(self) -> str:
        if self.significand_bits is None:
            return "exact"
        return "hopper-fp8" + ("" if self.interval is None else f"+{self.interval}")


Accumulation.EXACT = Accumulation()
Accumulation.HOPPER_FP8 = Accumulation(significand_bits=HOPPER_FP8_BITS)
Accumulation.HOPPER_FP8_PROMOTED = Accumulation(significand_bits=HOPPER_FP8_BITS, interval=128)
