"""Near-ties timed in turns, as many at once as a measuring process holds operands for."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tiles.kernels import TileConfig
from tuning.timing import Timing

__all__ = ["GROUP", "LATE", "compare_all"]

#: Configurations that take turns with one another.
GROUP = 12
#: Why some are not timed in turns.
LATE = "the time limit was reached"


def compare_all(
    compare: Callable[[Sequence[TileConfig]], list[Timing] | str],
    configs: Sequence[TileConfig],
    more: Callable[[], bool],
) -> tuple[list[Timing], str]:
    """Time near-ties in turns, group by group; each group holds the fastest one so far.

    Samples stay as they were taken.  The times of a later group are multiplied by the ratio of
    the shared configuration's times, since the clock may have moved between the groups.

    Args:
        compare: times at most :data:`GROUP` in turns, or says why it cannot.
        configs: at least two, those that matter most first.
        more: whether there is time for a further group.

    Returns:
        Timings of the first configurations, and why the others have none; "" when all have one.
    """
    first = compare(configs[:GROUP])
    if isinstance(first, str):
        return [], first
    timings = list(first)
    while len(timings) < len(configs):
        left = f"{len(configs) - len(timings)} of {len(configs)} near-ties were not timed in turns"
        if not more():
            return timings, f"{left}: {LATE}"
        best = min(range(len(timings)), key=lambda place: timings[place].time_us)
        group = configs[len(timings) : len(timings) + GROUP - 1]
        found = compare([configs[best], *group])
        if isinstance(found, str):
            return timings, f"{left}: {found}"
        ratio = timings[best].time_us / found[0].time_us
        timings += [replace(t, time_us=round(t.time_us * ratio, 4)) for t in found[1:]]
    return timings, ""
