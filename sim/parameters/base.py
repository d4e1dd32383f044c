"""What a fitted constant of a cost function is: a value, and how far from it the truth may lie."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tiles.intake import shown

__all__ = ["Parameters", "fitted"]

F64 = NDArray[np.float64]

#: Standard deviations of its prior, in log, that no fitted value may be away from it.
MAX_SIGMAS = 6.0


def fitted(value: float, sigma: float) -> Any:
    """A constant of a cost function with its log-normal prior.

    Args:
        value: the prior's median, which holds where nothing was calibrated; positive.
        sigma: standard deviation of log(value).
    """
    return field(default=value, metadata={"sigma": sigma})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The constants of one template's cost function; each field is made by :func:`fitted`."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Fields in order, that of :meth:`sigmas`."""
        return tuple(one.name for one in fields(cls))

    @classmethod
    def sigmas(cls) -> F64:
        """(parameters,) standard deviations of the priors, in log."""
        return np.array([one.metadata["sigma"] for one in fields(cls)], np.float64)

    def to_dict(self) -> dict[str, float]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        return {name: getattr(self, name) for name in self.names()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: other names than this version's, or a value that no fit gives.
        """
        if values.keys() != set(cls.names()):
            odd = sorted(values.keys() ^ set(cls.names()))
            raise ValueError(f"{cls.__name__}: {shown(odd[0])} is unknown or missing: fit it anew")
        default = cls()
        for name, sigma in zip(cls.names(), cls.sigmas().tolist(), strict=True):
            value = values[name]
            middle, factor = getattr(default, name), np.exp(MAX_SIGMAS * sigma)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not middle / factor <= value <= middle * factor
            ):
                raise ValueError(
                    f"{cls.__name__}: {name} = {shown(value)} must lie in "
                    f"{middle / factor:.4g}..{middle * factor:.4g}: fit it anew"
                )
        return cls(**{name: float(values[name]) for name in cls.names()})

    def scaled(self, factors: Mapping[str, float]) -> Self:
        """The same with some values multiplied."""
        return replace(self, **{name: getattr(self, name) * f for name, f in factors.items()})
