"""How long launches take by the rule of :mod:`tuning.timer`, alone and against rivals.

Rivals take turns.  A GPU at its power limit lowers its clock and raises it again over some tens of
milliseconds, so a kernel that draws little power looks slow right after one that draws much, and
one that draws much looks fast after a pause.  On an H200 a product of 1.27 ms took 1.55 ms after
half a second of bf16 products, and 70 to 100 ms to recover; a bf16 product took 1.42 ms for the
first 10 to 20 ms after idling, 1.64 ms from then on.  So each turn begins with 100 ms of the rival
itself, whose samples are dropped.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from tuning.conditions import Conditions
from tuning.energy import Energy
from tuning.timer import Launchers, Timer, open_timer

__all__ = [
    "SETTLE_S",
    "Look",
    "Timing",
    "open_rivals",
    "sample_in_turns",
    "time_callable",
    "time_interleaved",
]

#: Of the rival at a place, while the device works on its samples.
Look = Callable[[int], None]

#: Of a rival's own launches before its samples of a turn: the clock follows the power drawn.
SETTLE_S = 0.1
#: Turns that each rival gets.
ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long one launch takes."""

    time_us: float  #: median of the samples
    samples_us: tuple[float, ...]  #: in the order taken, to the nanosecond
    timing: str  #: which rule: "events-cold", "graph-rotate", "events-warm", "graph-warm", "host"
    conditions: Conditions | None = None  #: None when nobody observed
    energy: Energy | None = None  #: None where it was not asked for, or nothing reads it

    @classmethod
    def of(
        cls,
        samples_us: Sequence[float],
        timing: str,
        conditions: Conditions | None = None,
        energy: Energy | None = None,
    ) -> "Timing":
        """Summarise raw samples."""
        rounded = tuple(round(sample, 3) for sample in samples_us)
        return cls(
            time_us=round(statistics.median(rounded), 4),
            samples_us=rounded,
            timing=timing,
            conditions=conditions,
            energy=energy,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Timing":
        """Read what ``dataclasses.asdict`` wrote."""
        conditions, energy = data["conditions"], data.get("energy")
        return cls(
            time_us=data["time_us"],
            samples_us=tuple(data["samples_us"]),
            timing=data["timing"],
            conditions=None if conditions is None else Conditions.from_dict(conditions),
            energy=None if energy is None else Energy.from_dict(energy),
        )

    def in_turns(self) -> dict[str, Any]:
        """What such a timing puts in place of a measurement's own: JSON-ready."""
        entry: dict[str, Any] = {
            "time_us": self.time_us,
            "samples_us": list(self.samples_us),
            "timing": f"{self.timing}-interleaved",
        }
        if self.conditions is not None:
            entry["conditions"] = asdict(self.conditions)
        if self.energy is not None:
            entry["energy"] = self.energy.to_dict()
        return entry


def time_callable(
    launchers: Launchers,
    *,
    set_bytes: int,
    l2_bytes: int,
    cache: str = "cold",
    device: str = "cuda",
) -> Timing:
    """Time one launch under the workbench's rule; arguments as in :func:`open_timer`."""
    timer = open_timer(
        launchers, set_bytes=set_bytes, l2_bytes=l2_bytes, cache=cache, device=device
    )
    return Timing.of(timer.sample(timer.samples), timer.name)


def open_rivals(
    rivals: Sequence[tuple[Launchers, int]], *, l2_bytes: int, cache: str, device: str
) -> list[Timer]:
    """Timers of one rule; arguments as in :func:`time_interleaved`."""
    timers: list[Timer] = []
    for launchers, size in rivals:
        # Near the threshold two rules would favour one rival: the first one's holds for all.
        timers.append(
            open_timer(
                launchers,
                set_bytes=size,
                l2_bytes=l2_bytes,
                cache=cache,
                device=device,
                like=timers[0] if timers else None,
            )
        )
    return timers


def sample_in_turns(
    timers: Sequence[Timer], rounds: int = ROUNDS, look: Look | None = None
) -> list[list[float]]:
    """Samples of each rival, every other round in reverse order; each turn begins by settling.

    Args:
        look: called once a turn, with the rival's place, while the device works on its samples.
    """
    samples: list[list[float]] = [[] for _ in timers]
    for turn in range(rounds):
        order = range(len(timers)) if turn % 2 == 0 else reversed(range(len(timers)))
        for index in order:
            timers[index].settle(SETTLE_S)
            meanwhile = None if look is None else partial(look, index)
            samples[index] += timers[index].sample(-(-timers[index].samples // rounds), meanwhile)
    return samples


def time_interleaved(
    rivals: Sequence[tuple[Launchers, int]],
    *,
    l2_bytes: int,
    cache: str = "cold",
    device: str = "cuda",
    rounds: int = ROUNDS,
) -> list[Timing]:
    """Time rivals in turns, so that drifting clocks and temperatures touch all alike.

    Args:
        rivals: launchers and ``set_bytes`` of each.
        rounds: turns; every other round runs in reverse order.  A turn begins with ``SETTLE_S`` of
            the rival, dropped.

    Returns:
        One timing a rival, in the order given.
    """
    timers = open_rivals(rivals, l2_bytes=l2_bytes, cache=cache, device=device)
    samples = sample_in_turns(timers, rounds)
    return [Timing.of(taken, timer.name) for taken, timer in zip(samples, timers, strict=True)]
