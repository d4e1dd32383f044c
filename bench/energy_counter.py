"""Joules a launch by the board's energy counter, which steps a few times a second."""

from collections.abc import Callable

__all__ = ["LEAST_STEPS", "joules_per_launch"]

#: Steps of the counter that an answer rests on at least, the first one included.
LEAST_STEPS = 5


def joules_per_launch(
    work: Callable[[], int],
    energy_j: Callable[[], float | None],
    seconds: float,
    now: Callable[[], float],
) -> float:
    """Work on until the time is over, and divide energy by launches between steps of the counter.

    What is divided begins and ends with a step, so that its width does not matter; the launches
    before the first one warm the GPU up.

    Args:
        work: launches for some hundredths of a second, waits for the end, and says how many.
        energy_j: the counter; None where there is none.
        seconds: to work for; longer where the counter has made too few steps, ten times at most.
        now: seconds of a clock that only goes forward.
    Raises:
        ValueError: there is no counter, or it does not step.
    """
    launches, begun = 0, now()
    before = energy_j()
    if before is None:
        raise ValueError("NVML has no energy counter for this GPU: measure on another one")
    steps: list[tuple[float, int]] = []
    while (late := now() - begun) < seconds or len(steps) < LEAST_STEPS:
        if late > 10 * seconds:
            raise ValueError(f"the energy counter made {len(steps)} steps in {late:.0f} s: no use")
        launches += work()
        found = energy_j()
        if found is not None and found != before:
            steps.append((found, launches))
            before = found
    (first, begin), (last, end) = steps[0], steps[-1]
    return (last - first) / (end - begin)
