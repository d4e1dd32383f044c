"""Near-ties timed in turns, as many at once as a measuring process holds operands for."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from tiles.kernels import TileConfig
from tuning.objective import Objective
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
    objective: Objective = Objective.TIME,
) -> tuple[list[Timing], str]:
    """Time near-ties in turns, group by group; each group holds the fastest one so far.

    Samples stay as they were taken.  The times of a later group are multiplied by the ratio of
    the shared configuration's times, since the clock may have moved between the groups; energies
    likewise, since the board may have warmed up.

    Args:
        compare: times at most :data:`GROUP` in turns, or says why it cannot.
        configs: at least two, those that matter most first.
        more: whether there is time for a further group.
        objective: what the best one of a group has the least of.

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
        best = min(range(len(timings)), key=lambda p: objective.of(timings[p]) or math.inf)
        group = configs[len(timings) : len(timings) + GROUP - 1]
        found = compare([configs[best], *group])
        if isinstance(found, str):
            return timings, f"{left}: {found}"
        timings += [_scaled(one, timings[best], found[0]) for one in found[1:]]
    return timings, ""


def _scaled(one: Timing, then: Timing, now: Timing) -> Timing:
    """A timing of a later group, by what the shared configuration was before and is there."""
    energy = one.energy
    if energy is not None and then.energy is not None and now.energy is not None:
        ratio = then.energy.energy_mj / now.energy.energy_mj
        energy = replace(energy, energy_mj=energy.energy_mj * ratio)
    return replace(one, time_us=round(one.time_us * (then.time_us / now.time_us), 4), energy=energy)
