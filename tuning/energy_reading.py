"""Energy of a launch, read from the board's sensors while launches follow one another.

NVML's energy counter steps some times a second, so an answer rests on a second of launches back to
back, between two of its steps: what comes before the first step warms the board up, and the width
of the steps does not matter.  Where there is no counter, or it does not step, the mean of power
readings stands in; those average over about a second themselves, so the readings of the second half
of a longer window count.

Launches are queued ahead of the looks at the sensors, so that the device never waits for them.  L2
is not flushed between launches: the flush would be charged to them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean
from typing import Protocol

from tuning.conditions import Reading
from tuning.energy import Energy
from tuning.energy_counter import Work, counted, settle
from tuning.timer import Timer
from tuning.timing import SETTLE_S

__all__ = ["BOUT_S", "Meter", "bouts", "energies_in_turns", "energy_sensor", "launch_energy"]

#: Between the first step of the counter and the last; and what a reading takes at most, which is
#: what one without a counter takes.
WINDOW_S, LONGEST_S = 1.0, 3.0
#: Of the counter, the first one included.
LEAST_STEPS = 3
#: Launches between two looks at the sensors.
BOUT_S = 0.01
#: Times that a reading is thrown away at most because another process used the GPU meanwhile.
REPEATS = 2
#: Of rivals: every other round in reverse order.
ROUNDS = 2
#: ``nvidia-smi`` may take so long to say its first line.
SENSOR_S = 2.0


class Meter(Protocol):
    """What :mod:`tuning.observers` reads of a GPU, as far as it counts here."""

    def energy_j(self) -> float | None:
        """The board's energy counter; None where there is none."""

    def read(self) -> Reading:
        """The sensors now."""

    def company(self) -> str:
        """What another process did on the GPU since the last call; "" for nothing."""


def energy_sensor(
    meter: Meter | None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """What energy can be read from: "counter", "power", or "" for nothing."""
    if meter is None:
        return ""
    begun = now()
    while True:
        if meter.energy_j() is not None:
            return "counter"
        if meter.read().power_w is not None:
            return "power"
        if now() - begun > SENSOR_S:
            return ""
        sleep(0.1)


def launch_energy(
    timer: Timer, time_us: float, meter: Meter, now: Callable[[], float] = time.monotonic
) -> Energy | None:
    """Energy of one launch; None where no sensor answers.

    Args:
        timer: warmed up.
        time_us: of one launch, about.
        now: seconds of a clock that only goes forward.
    """
    work = bouts(timer, time_us)
    settle(work, SETTLE_S, now)
    left = REPEATS
    while True:
        meter.company()  # what went on before is another reading's
        found = _by_counter(work, meter, now) or _by_power(work, meter, now)
        disturbed = meter.company()
        if found is None or not disturbed or not left:
            return None if found is None else replace(found, disturbed=disturbed)
        left -= 1


def energies_in_turns(
    timers: Sequence[Timer],
    times_us: Sequence[float],
    meter: Meter,
    now: Callable[[], float] = time.monotonic,
) -> list[Energy | None]:
    """Energies of rivals that take turns, so that a board that warms up touches all alike."""
    found: list[list[Energy | None]] = [[] for _ in timers]
    for turn in range(ROUNDS):
        order = range(len(timers)) if turn % 2 == 0 else reversed(range(len(timers)))
        for place in order:
            found[place].append(launch_energy(timers[place], times_us[place], meter, now))
    return [_together(turns) for turns in found]


def _together(turns: Sequence[Energy | None]) -> Energy | None:
    """One reading of several: their energy over their launches; None where a turn has none."""
    kept = [one for one in turns if one is not None]
    if len(kept) < len(turns):
        return None
    launches = sum(one.launches for one in kept)
    return Energy(
        energy_mj=sum(one.energy_mj * one.launches for one in kept) / launches,
        source="counter" if all(one.source == "counter" for one in kept) else "power",
        launches=launches,
        seconds=sum(one.seconds for one in kept),
        disturbed="; ".join(dict.fromkeys(one.disturbed for one in kept if one.disturbed)),
    )


def bouts(timer: Timer, time_us: float) -> Work:
    """Queues a bout behind the one that runs; says how many launches have ended since the last.

    So the device has work while the host looks at sensors, which takes milliseconds.

    Args:
        timer: warmed up.
        time_us: of one launch, about.
    """
    replays = max(1, round(BOUT_S * 1e6 / (max(time_us, 0.1) * timer.launches)))
    queued = False

    def work() -> int:
        nonlocal queued
        timer.bout(replays)
        ended = replays * timer.launches if queued else 0
        queued = True
        return ended

    return work


def _by_counter(work: Work, meter: Meter, now: Callable[[], float]) -> Energy | None:
    found = counted(
        work,
        meter.energy_j,
        now,
        window_s=WINDOW_S,
        longest_s=LONGEST_S,
        least_steps=LEAST_STEPS,
    )
    if isinstance(found, str):
        return None
    return Energy(
        energy_mj=1e3 * found.launch_j,
        source="counter",
        launches=found.launches,
        seconds=found.seconds,
    )


def _by_power(work: Work, meter: Meter, now: Callable[[], float]) -> Energy | None:
    begun, launches = now(), 0
    powers: list[float] = []
    while now() - begun < LONGEST_S:
        launches += work()
        if now() - begun < LONGEST_S / 2:
            continue
        power_w = meter.read().power_w
        if power_w is not None:
            powers.append(power_w)
    seconds = now() - begun
    if not powers or not launches:
        return None
    return Energy(
        energy_mj=1e3 * mean(powers) * seconds / launches,
        source="power",
        launches=launches,
        seconds=seconds,
    )
