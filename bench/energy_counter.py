"""Joules a launch by the board's energy counter, which steps a few times a second."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["LEAST_STEPS", "PerLaunch", "per_launch"]

#: Steps of the counter that an answer rests on at least, the first one included.
LEAST_STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PerLaunch:
    """What a launch takes, back to back with its like."""

    energy_j: float
    time_s: float  #: of the host's clock, between looks at the counter

    @property
    def power_w(self) -> float:
        """The board's, mean."""
        return self.energy_j / self.time_s


def per_launch(
    work: Callable[[], int],
    energy_j: Callable[[], float | None],
    seconds: float,
    now: Callable[[], float],
    *,
    settle_s: float = 0.0,
) -> PerLaunch:
    """Work on until the time is over, and divide energy by launches between steps of the counter.

    What is divided begins and ends with a step, so that its width does not matter.

    Args:
        work: launches for about a hundredth of a second, waits for the end, and says how many.
        energy_j: the counter; None where there is none.
        seconds: to work for; longer where the counter has made too few steps, ten times at most.
        now: seconds of a clock that only goes forward.
        settle_s: of work before, so that clock and temperature are this launch's own.
    Raises:
        ValueError: there is no counter, or it does not step.
    """
    begun = now()
    while now() - begun < settle_s:
        work()
    launches, begun = 0, now()
    before = energy_j()
    if before is None:
        raise ValueError("NVML has no energy counter for this GPU: measure on another one")
    steps: list[tuple[float, int, float]] = []
    while (late := now() - begun) < seconds or len(steps) < LEAST_STEPS:
        if late > 10 * seconds:
            raise ValueError(f"the energy counter made {len(steps)} steps in {late:.0f} s: no use")
        launches += work()
        found = energy_j()
        if found is not None and found != before:
            steps.append((found, launches, now()))
            before = found
    (first, begin, since), (last, end, until) = steps[0], steps[-1]
    return PerLaunch(
        energy_j=(last - first) / (end - begin), time_s=(until - since) / (end - begin)
    )
