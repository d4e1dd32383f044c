"""The axes of drawn plots: ends, round numbers, and where a value lies."""

import math
from collections.abc import Callable, Sequence

__all__ = ["even_ticks", "log_ticks", "scale"]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten inside a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def even_ticks(low: float, high: float) -> list[float]:
    """About six round numbers inside a range."""
    rough = (high - low) / 6
    step = 10 ** math.floor(math.log10(rough))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def scale(
    values: Sequence[float], begin: float, end: float, *, log: bool
) -> tuple[float, float, Callable[[float], float]]:
    """Ends of an axis, a little beyond its values, and where a value lies on the page."""
    low, high = min(values), max(values)
    if log:
        low, high = low / 1.15, high * 1.15
        span = math.log(high / low)
        return low, high, lambda value: begin + (end - begin) * math.log(value / low) / span
    room = 0.06 * (high - low) or 1.0
    low, high = (low if low == 0 else low - room), high + room
    return low, high, lambda value: begin + (end - begin) * (value - low) / (high - low)
