"""Clocks, times and rates that know their unit.

Drivers give clocks in kHz, NVML in MHz, CUDA events in milliseconds, ``globaltimer`` in
nanoseconds.  A number enters by a constructor that names its unit, and an implausible one is
refused there: a clock in kHz taken for MHz made a widely used model a thousand times too slow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

__all__ = ["Duration", "Figure", "Frequency", "figure", "gb_per_s", "per_clk"]

#: No GPU's clock lies outside.
LEAST_HZ, MOST_HZ = 1e8, 1e10


@dataclass(frozen=True, slots=True)
class Frequency:
    """A clock; made by :meth:`of_mhz` or :meth:`of_khz` only."""

    hz: float

    def __post_init__(self) -> None:
        if not LEAST_HZ <= self.hz <= MOST_HZ:
            raise ValueError(
                f"a clock of {self.hz:.4g} Hz lies outside {LEAST_HZ:.0e}..{MOST_HZ:.0e}: "
                "check whether it was given in kHz or MHz"
            )

    @classmethod
    def of_mhz(cls, mhz: float) -> Self:
        """As NVML says it."""
        return cls(mhz * 1e6)

    @classmethod
    def of_khz(cls, khz: float) -> Self:
        """As device attributes say it."""
        return cls(khz * 1e3)

    @property
    def mhz(self) -> float:
        """As GPU files say it."""
        return self.hz / 1e6


@dataclass(frozen=True, slots=True)
class Duration:
    """A time; made by :meth:`of_ms`, :meth:`of_us` or :meth:`of_ns` only."""

    ns: float

    def __post_init__(self) -> None:
        if not 0 < self.ns < 1e12:
            raise ValueError(f"a time of {self.ns:.4g} ns: it must be positive and below 1000 s")

    @classmethod
    def of_ms(cls, ms: float) -> Self:
        """As CUDA events say it."""
        return cls(ms * 1e6)

    @classmethod
    def of_us(cls, us: float) -> Self:
        """As this project says it."""
        return cls(us * 1e3)

    @property
    def us(self) -> float:
        """As GPU files say it."""
        return self.ns / 1e3


def gb_per_s(count_bytes: float, time: Duration) -> float:
    """10^9 bytes a second: bytes a nanosecond."""
    return count_bytes / time.ns


def per_clk(work: float, clocks: float, sms: int = 1) -> float:
    """Work a clock and multiprocessor.

    Raises:
        ValueError: no clock passed.
    """
    if not clocks > 0:
        raise ValueError(f"{work:g} units of work in {clocks:g} clocks: the kernel did not run")
    return work / clocks / sms


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What a microbenchmark found."""

    name: str  #: of a GPU file's figure, or with a name of its own, which is kept for information
    value: float
    unit: str
    spread: float  #: interquartile range over median of the samples

    def to_dict(self) -> dict[str, float | str]:
        """JSON-ready mapping."""
        return {"name": self.name, "value": self.value, "unit": self.unit, "spread": self.spread}


def figure(name: str, unit: str, values: Sequence[float]) -> Figure:
    """The median of repeated samples with their spread.

    Raises:
        ValueError: no sample, or one that is not positive and finite.
    """
    array = np.asarray(values, np.float64)
    if array.size == 0 or not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"{name}: samples {values!r:.80} are not all positive: measure again")
    low, middle, high = np.quantile(array, [0.25, 0.5, 0.75]).tolist()
    return Figure(name=name, value=middle, unit=unit, spread=(high - low) / middle)
