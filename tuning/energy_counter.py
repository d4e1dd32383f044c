"""Joules by the board's energy counter, which steps some times a second, between two of its steps.

What comes before the first step does not count, and the width of the steps does not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Counted", "Work", "counted", "settle"]

#: Queues launches behind those that run, waits for the end of these and says how many they were:
#: the device works on while the counter, which takes milliseconds, is read.
Work = Callable[[], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What launches back to back took between two steps of the counter."""

    energy_j: float  #: of all of them
    launches: int
    seconds: float  #: of the host's clock
    look_s: float  #: that the longest look at the counter took

    @property
    def launch_j(self) -> float:
        return self.energy_j / self.launches

    @property
    def launch_s(self) -> float:
        return self.seconds / self.launches

    @property
    def power_w(self) -> float:
        """The board's, mean."""
        return self.energy_j / self.seconds


def settle(work: Work, seconds: float, now: Callable[[], float]) -> None:
    """Work on, so that clock and temperature are these launches' own."""
    begun = now()
    while now() - begun < seconds:
        work()


def counted(
    work: Work,
    energy_j: Callable[[], float | None],
    now: Callable[[], float],
    *,
    window_s: float,
    longest_s: float,
    least_steps: int,
) -> Counted | str:
    """Work on and look at the counter, until what lies between its steps is enough.

    Args:
        energy_j: the counter; None where there is none.
        now: seconds of a clock that only goes forward.
        window_s: between the first step and the last, at least.
        longest_s: to work for at most.
        least_steps: of the counter, the first one included.
    Returns:
        what it said, or why it is of no use.
    """
    before = energy_j()
    if before is None:
        return "there is no energy counter"
    begun, launches, look_s = now(), 0, 0.0
    steps: list[tuple[float, int, float]] = []
    while len(steps) < least_steps or steps[-1][2] - steps[0][2] < window_s:
        late = now() - begun
        if late > longest_s:
            return f"the energy counter made {len(steps)} steps in {late:.0f} s: no use"
        launches += work()
        asked = now()
        found = energy_j()
        look_s = max(look_s, now() - asked)
        if found is not None and found != before:
            steps.append((found, launches, now()))
            before = found
    (first, begin, since), (last, end, until) = steps[0], steps[-1]
    if end == begin:
        return f"no launch ended in {until - since:.1f} s between steps of the energy counter"
    if last <= first:
        return f"the energy counter went back, from {first:.1f} J to {last:.1f} J"
    return Counted(
        energy_j=last - first, launches=end - begin, seconds=until - since, look_s=look_s
    )
