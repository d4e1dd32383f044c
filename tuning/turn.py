"""A study's turn: its share of the sweep's time, and what measurements take of it."""

from collections.abc import Callable

__all__ = ["TIME_IS_UP", "Turn"]

#: Why a study ended that had no time left.
TIME_IS_UP = "the sweep's time limit was reached"


class Turn:
    """Counts measurements against a share of the time.

    Args:
        seconds: that the sweep has left; None where there is no limit.
        studies: that share them, this one included.
        clock: seconds of a clock that only goes forward.
    """

    def __init__(self, seconds: float | None, studies: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun = clock()
        self._behind = studies - 1
        self._end = None if seconds is None else self._begun + seconds
        self._limit = None if seconds is None else self._begun + seconds / studies
        self.measured = 0  #: measurements so far

    @property
    def seconds(self) -> float | None:
        """What is left of the share; not positive when it is over."""
        return None if self._limit is None else self._limit - self._clock()

    @property
    def over(self) -> bool:
        """Whether the share is used up."""
        left = self.seconds
        return left is not None and left <= 0

    @property
    def full(self) -> bool:
        """Whether another measurement, as long as those before, would end beyond the share.

        The first one may: a study whose share is shorter than a measurement still has one.
        """
        left = self.seconds
        return self.over or (left is not None and self._pace > left)

    def spares(self, measurements: int) -> bool:
        """Whether the sweep has time for so many more, and for one of every study behind this."""
        if self._end is None or not self._behind:
            return True
        return self._pace * (measurements + self._behind) < self._end - self._clock()

    @property
    def _pace(self) -> float:
        """Seconds that a measurement took; 0 as long as there was none."""
        return (self._clock() - self._begun) / self.measured if self.measured else 0.0
