"""One timing rule for every kernel and every rival.

Launches of 50 us and more are replayed one by one from a graph between device events, each after
the L2 was overwritten; the time is the median.  For shorter ones the gaps between launches would
count, so one graph launches many, on operand sets that together exceed four times the L2, and a
sample is the mean of one replay.  ``cache="warm"`` leaves out the flush and the rotation and is
named so.
Kernels of the HOST backend are timed with the host's clock, a fifth as long.

Rivals take turns.  A GPU at its power limit lowers its clock and raises it again over some tens of
milliseconds, so a kernel that draws little power looks slow right after one that draws much, and
one that draws much looks fast after a pause.  On an H200 a product of 1.27 ms took 1.55 ms after
half a second of bf16 products, and 70 to 100 ms to recover; a bf16 product took 1.42 ms for the
first 10 to 20 ms after idling, 1.64 ms from then on.  So each turn begins with 100 ms of the rival
itself, whose samples are dropped.
"""

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

from tuning.conditions import Conditions
from tuning.energy import Energy

__all__ = [
    "GRAPH_BELOW_US",
    "SETTLE_S",
    "Launchers",
    "Look",
    "Meanwhile",
    "Timer",
    "Timing",
    "open_rivals",
    "open_timer",
    "operand_sets",
    "sample_in_turns",
    "time_callable",
    "time_interleaved",
]

Launch = Callable[[], None]
Meanwhile = Callable[[], None]
#: Of the rival at a place, while the device works on its samples.
Look = Callable[[int], None]
#: From a number of operand sets to one launch on each; called once per timer.
Launchers = Callable[[int], Sequence[Launch]]

GRAPH_BELOW_US = 50.0
#: Device time that the samples of one configuration aim to cover.
SAMPLING_US = 100_000.0
#: Samples stop here even when there are few: a kernel of a second is not run thirty times.
SAMPLING_LIMIT_US = 2_000_000.0
MIN_SAMPLES, MAX_SAMPLES = 30, 200
#: Fewer tell no spread, however short the window or slow the kernel.
LEAST_SAMPLES = 5
#: The same for the host's clock, which needs no graph and no flush.
HOST_SAMPLING_US = 20_000.0
HOST_MIN_SAMPLES = 10
MIN_REPLAYS, MAX_REPLAYS = 20, 100
MIN_LAUNCHES_PER_GRAPH = 20
#: Of a rival's own launches before its samples of a turn: the clock follows the power drawn.
SETTLE_S = 0.1
#: Turns that each rival gets.
ROUNDS = 4
#: More copies than this cost more to make than they tell; such timings are named "partial".
MAX_SETS = 2048


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


class Timer(ABC):
    """A warmed-up launch that can be sampled again and again."""

    name: str  #: the rule, as in :class:`Timing`
    launches: int = 1  #: of one replay
    samples: int  #: how many samples one measurement takes

    @abstractmethod
    def sample(self, count: int, meanwhile: Meanwhile | None = None) -> list[float]:
        """Take samples: microseconds of one launch each.

        Args:
            meanwhile: called once while the device works on them.
        """

    def load(self, duration_s: float) -> None:
        """Queue work for about that long without waiting for it, so that clocks can be read."""
        return None

    def bout(self, replays: int) -> None:
        """Queue replays, as far as may be behind those of the bout before, which is waited for."""
        self.sample(replays)

    def settle(self, duration_s: float) -> None:
        """Run for about that long as samples do, until the clock is this launch's own.

        Nothing by default: where samples are replays of many launches they are short and gentle,
        and on the host there is no such clock.
        """
        return None


class HostTimer(Timer):
    """Wall-clock time of a call on the host."""

    name: ClassVar[str] = "host"  # type: ignore[misc]  # one rule, whatever the instance

    def __init__(self, launch: Launch, sampling_us: float = SAMPLING_US) -> None:
        self._launch = launch
        launch()
        estimate_us = max(self.sample(1)[0], 0.1)
        self.samples = sample_count(
            estimate_us,
            HOST_SAMPLING_US * sampling_us / SAMPLING_US,
            fewest(sampling_us, HOST_MIN_SAMPLES),
        )

    def sample(self, count: int, meanwhile: Meanwhile | None = None) -> list[float]:
        times = []
        for _ in range(count):
            start = time.perf_counter_ns()
            self._launch()
            times.append((time.perf_counter_ns() - start) / 1e3)
        if meanwhile is not None:
            meanwhile()
        return times


def sample_count(
    estimate_us: float, cover_us: float = SAMPLING_US, fewest: int = MIN_SAMPLES
) -> int:
    """Samples of single launches: 100 ms of them, 30 to 200, at most 2 s in all but at least 5."""
    count = min(MAX_SAMPLES, max(fewest, round(cover_us / estimate_us)))
    return max(LEAST_SAMPLES, min(count, int(SAMPLING_LIMIT_US / estimate_us)))


def fewest(sampling_us: float, usual: int) -> int:
    """Fewest samples in a window other than 100 ms: as many times fewer, but at least 5."""
    return max(LEAST_SAMPLES, min(usual, round(usual * sampling_us / SAMPLING_US)))


def operand_sets(set_bytes: int, l2_bytes: int) -> int:
    """Copies of operands and output that together exceed four times the L2, at least two."""
    return min(MAX_SETS, max(2, 4 * l2_bytes // max(1, set_bytes) + 1))


def open_timer(
    launchers: Launchers,
    *,
    set_bytes: int,
    l2_bytes: int,
    cache: str = "cold",
    device: str,
    like: Timer | None = None,
    sampling_us: float = SAMPLING_US,
) -> Timer:
    """Warm a launch up, estimate it and choose the rule.

    Args:
        launchers: makes launches on that many separate copies of operands and output.
        set_bytes: size of one copy.
        l2_bytes: size of the L2, as the driver counts it.
        cache: "cold" or "warm".
        device: "cuda", or "cpu" for the host's clock.
        like: a rival's timer, whose rule is taken whatever the estimate.
        sampling_us: device time that samples aim to cover; whoever shortens it says so beside the
            times, which are noisier then.

    Raises:
        ValueError: no such cache mode.
    """
    if cache not in ("cold", "warm"):
        raise ValueError(f"cache = {cache!r}: choose cold or warm")
    if device == "cpu":
        return HostTimer(launchers(1)[0], sampling_us)
    from tuning.timing_cuda import open_cuda_timer

    return open_cuda_timer(
        launchers,
        set_bytes=set_bytes,
        l2_bytes=l2_bytes,
        cache=cache,
        like=like,
        sampling_us=sampling_us,
    )


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
