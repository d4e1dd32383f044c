"""One timing rule for every kernel and every rival.

Launches of 50 us and more are replayed one by one from a graph between device events, each after
the L2 was overwritten; the time is the median.  For shorter ones the gaps between launches would
count, so one graph launches many, on operand sets that together exceed four times the L2, and a
sample is the mean of one replay.  ``cache="warm"`` leaves out the flush and the rotation and is
named so.
Kernels of the HOST backend are timed with the host's clock, a fifth as long.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

__all__ = ["GRAPH_BELOW_US", "Launchers", "Meanwhile", "Timer", "open_timer", "operand_sets"]

Launch = Callable[[], None]
Meanwhile = Callable[[], None]
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
#: More copies than this cost more to make than they tell; such timings are named "partial".
MAX_SETS = 2048


class Timer(ABC):
    """A warmed-up launch that can be sampled again and again."""

    name: str  #: the rule, as in :class:`tuning.timing.Timing`
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
    from tuning.timer_cuda import open_cuda_timer

    return open_cuda_timer(
        launchers,
        set_bytes=set_bytes,
        l2_bytes=l2_bytes,
        cache=cache,
        like=like,
        sampling_us=sampling_us,
    )
