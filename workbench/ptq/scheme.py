"""Schemes: which operators of a model are quantised, and how their scales are found.

A recipe says formats, a scheme the rest.  Source: Efficient Post-training Quantization with FP8
Formats, arXiv 2309.14592, sections 3.1 (standard) and 3.2 (extended).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from tiles.intake import nearest, shown

__all__ = ["EXTENDED", "SCHEMES", "STANDARD", "Calibration", "Kind", "Rule", "Scheme", "scheme_of"]


class Kind(Enum):
    """Operators that a scheme may name."""

    LINEAR = "linear"  #: ``nn.Linear`` and ``F.linear``
    CONV = "conv"  #: ``nn.Conv1d``, ``nn.Conv2d`` and their functions, as implicit GEMMs
    MATMUL = "matmul"  #: products of two activations, attention's among them
    EMBEDDING = "embedding"  #: ``nn.Embedding``, ``nn.EmbeddingBag``
    LAYERNORM = "layernorm"
    BATCHNORM = "batchnorm"
    ADD = "add"
    MUL = "mul"

    def __str__(self) -> str:
        return self.value


class Rule(Enum):
    """How the scale of an activation follows from what calibration saw."""

    MAX = "max"  #: the largest magnitude
    PERCENTILE = "percentile"  #: the magnitude that a percentile of all values does not exceed
    MSE = (
        "mse"  #: of 32 clips from the largest magnitude down to half of it the least squared error
    )


_PERCENTILE = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,4})?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A rule, and the percentile that it may take."""

    rule: Rule = Rule.MAX
    percentile: float | None = None  #: in percent, for ``Rule.PERCENTILE``

    def __post_init__(self) -> None:
        if (self.percentile is None) == (self.rule is Rule.PERCENTILE):
            raise ValueError("the percentile rule, and it alone, takes a percentile")
        if self.percentile is not None and not 50 <= self.percentile < 100:
            raise ValueError(f"percentile {self.percentile}: at least 50 and below 100")

    @classmethod
    def parse(cls, text: str) -> "Calibration":
        """Read ``max``, ``mse`` or ``p<percentile>``, as in ``p99.9``.

        Raises:
            ValueError: none of these.
        """
        if match := _PERCENTILE.fullmatch(text):
            return cls(rule=Rule.PERCENTILE, percentile=float(match[1]))
        if text not in (Rule.MAX.value, Rule.MSE.value):
            raise ValueError(
                f"calibration {shown(text)}: {nearest(text, ('max', 'mse'))}write max, mse or "
                "p<percentile>, as p99.9"
            )
        return cls(rule=Rule(text))

    def __str__(self) -> str:
        return self.rule.value if self.percentile is None else f"p{self.percentile:g}"


_PRODUCTS = frozenset((Kind.LINEAR, Kind.CONV, Kind.MATMUL, Kind.EMBEDDING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Which operators are quantised and how; change one with ``dataclasses.replace``."""

    name: str
    kinds: frozenset[Kind] = _PRODUCTS
    #: Scales per tensor of every call's own data instead of calibrated ones.
    dynamic: bool = False
    calibration: Calibration = field(default_factory=Calibration)
    weight_rule: Rule = Rule.MAX  #: ``MAX`` or ``MSE``, for weights with fp32 or fp16 scales
    smooth: float | None = None  #: SmoothQuant's alpha, for ``nn.Linear``; ``None``: not smoothed
    gptq: bool = False  #: GPTQ for ``nn.Linear`` instead of rounding to nearest
    act_order: bool = False  #: GPTQ from the largest diagonal entry of the Hessian on
    recalibrate_batchnorm: bool = False
    #: The first convolution and the last linear layer stay in high precision; ``None``: so they do
    #: in models that have convolutions.
    keep_first_last: bool | None = None

    def __post_init__(self) -> None:
        if self.smooth is not None and not 0 <= self.smooth <= 1:
            raise ValueError(f"smooth {self.smooth}: SmoothQuant's alpha lies from 0 to 1")
        if self.weight_rule is Rule.PERCENTILE:
            raise ValueError("weights are scaled by max or mse")
        if self.act_order and not self.gptq:
            raise ValueError("act_order is an option of GPTQ: take gptq too, or leave it out")

    def __str__(self) -> str:
        return self.name

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: every option, by its name."""
        options = {one.name: getattr(self, one.name) for one in fields(self)}
        return options | {
            "kinds": sorted(str(kind) for kind in self.kinds),
            "calibration": str(self.calibration),
            "weight_rule": self.weight_rule.value,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Scheme":
        """Read what :meth:`to_dict` wrote; options that an older file lacks have their defaults.

        Raises:
            KeyError, TypeError, ValueError: no name, an unknown option or a wrong one.
        """
        read: dict[str, Callable[[Any], Any]] = {
            "kinds": lambda kinds: frozenset(Kind(kind) for kind in kinds),
            "calibration": Calibration.parse,
            "weight_rule": Rule,
        }
        return cls(**{name: read.get(name, _same)(value) for name, value in data.items()})


def _same(value: Any) -> Any:
    return value


STANDARD = Scheme(name="standard")
EXTENDED = Scheme(
    name="extended",
    kinds=_PRODUCTS | {Kind.LAYERNORM, Kind.BATCHNORM, Kind.ADD, Kind.MUL},
    recalibrate_batchnorm=True,
)
SCHEMES = {scheme.name: scheme for scheme in (STANDARD, EXTENDED)}


def scheme_of(chosen: "str | Scheme") -> Scheme:
    """A scheme by its name, or one of your own.

    Raises:
        ValueError: another name.
        TypeError: neither a name nor a scheme.
    """
    if isinstance(chosen, Scheme):
        return chosen
    if not isinstance(chosen, str):
        raise TypeError(f"a scheme is a name or a Scheme, not {shown(chosen)}")
    if chosen not in SCHEMES:
        raise ValueError(
            f"unknown scheme {shown(chosen)}: {nearest(chosen, SCHEMES)}"
            f"choose from {', '.join(SCHEMES)}"
        )
    return SCHEMES[chosen]
