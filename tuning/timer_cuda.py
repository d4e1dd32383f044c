"""Timers on a CUDA device; see :mod:`tuning.timer` for the rule.  Imports torch."""

import functools
import statistics
import time
from collections.abc import Sequence

import torch

from tuning.timer import (
    GRAPH_BELOW_US,
    MAX_REPLAYS,
    MAX_SETS,
    MIN_LAUNCHES_PER_GRAPH,
    MIN_REPLAYS,
    MIN_SAMPLES,
    SAMPLING_US,
    Launch,
    Launchers,
    Meanwhile,
    Timer,
    fewest,
    operand_sets,
    sample_count,
)

__all__ = ["EventTimer", "GraphTimer", "open_cuda_timer"]

#: Device time spent before the first sample: an idle GPU's clock takes milliseconds to rise.
WARM_UP_US = 20_000.0
ESTIMATE_SAMPLES = 5
FLUSH_BYTES = 2**28


@functools.cache
def _flush_buffer(l2_bytes: int) -> torch.Tensor:
    """A buffer more than twice the L2; writing it evicts everything else."""
    return torch.empty(
        max(FLUSH_BYTES, 2 * l2_bytes + 2**20) // 4, dtype=torch.int32, device="cuda"
    )


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's gap


def _capture(launches: Sequence[Launch]) -> torch.cuda.CUDAGraph:
    """A graph of the launches, in their order; the first one has run before it is captured."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's gap
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        launches[0]()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for launch in launches:
            launch()
    return graph


class _Bouts:
    """Replays of a graph, queued a bout ahead of the one that is waited for."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph
        self._running: torch.cuda.Event | None = None

    def queue(self, replays: int) -> None:
        """Queue a bout, then wait for the one before."""
        for _ in range(replays):
            self._graph.replay()
        end = _event()
        end.record()
        if self._running is not None:
            self._running.synchronize()
        self._running = end


class EventTimer(Timer):
    """Device events around single launches, each after an L2 flush unless ``flush`` is None.

    The launch is replayed from a graph: preparing a Triton launch takes the host longer than the
    flush takes the device, and a kernel must not be charged for that.
    """

    def __init__(self, launch: Launch, flush: torch.Tensor | None) -> None:
        self._launch = launch  # owns the operands that the graph reads and writes
        self._graph = _capture([launch])
        self._bouts = _Bouts(self._graph)
        self._flush = flush
        self.name = "events-warm" if flush is None else "events-cold"
        self.samples = ESTIMATE_SAMPLES

    def sample(self, count: int, meanwhile: Meanwhile | None = None) -> list[float]:
        pairs = []
        for _ in range(count):
            start, end = _event(), _event()
            if self._flush is not None:
                self._flush.zero_()
            start.record()
            self._graph.replay()
            end.record()
            pairs.append((start, end))
        if meanwhile is not None:
            meanwhile()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) * 1e3 for start, end in pairs]

    def warm_up(self, estimate_us: float) -> None:
        """Launch without flush or events for about ``WARM_UP_US``."""
        for _ in range(min(500, max(3, round(WARM_UP_US / estimate_us)))):
            self._graph.replay()

    def load(self, duration_s: float) -> None:
        for _ in range(max(3, min(2000, round(duration_s * 1e3)))):
            self._graph.replay()

    def bout(self, replays: int) -> None:
        self._bouts.queue(replays)

    def settle(self, duration_s: float) -> None:
        until = time.monotonic() + duration_s
        while time.monotonic() < until:
            # A fifth of a measurement, about 20 ms: the gap behind each is nothing beside it.
            self.sample(max(1, self.samples // 5))


class GraphTimer(Timer):
    """Replays of a graph whose launches rotate through separate operand sets."""

    def __init__(
        self,
        launches: list[Launch],
        name: str,
        estimate_us: float,
        sampling_us: float = SAMPLING_US,
    ) -> None:
        self.sets = len(launches)
        #: Every set is launched equally often.
        self.launches = self.sets * -(-MIN_LAUNCHES_PER_GRAPH // self.sets)
        self.name = name
        self._launches = launches  # own the operands that the graph reads and writes
        self._graph = _capture([launches[i % self.sets] for i in range(self.launches)])
        self._bouts = _Bouts(self._graph)
        replay_us = max(1.0, estimate_us) * self.launches
        least = fewest(sampling_us, MIN_REPLAYS)
        self.samples = min(MAX_REPLAYS, max(least, round(sampling_us / replay_us)))
        for _ in range(max(2, min(50, round(min(WARM_UP_US, sampling_us) / replay_us)))):
            self._graph.replay()
        torch.cuda.synchronize()

    def sample(self, count: int, meanwhile: Meanwhile | None = None) -> list[float]:
        pairs = []
        for _ in range(count):
            start, end = _event(), _event()
            start.record()
            self._graph.replay()
            end.record()
            pairs.append((start, end))
        if meanwhile is not None:
            meanwhile()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) * 1e3 / self.launches for start, end in pairs]

    def load(self, duration_s: float) -> None:
        for _ in range(max(3, min(500, round(duration_s * 1e3)))):
            self._graph.replay()

    def bout(self, replays: int) -> None:
        self._bouts.queue(replays)


def open_cuda_timer(
    launchers: Launchers,
    *,
    set_bytes: int,
    l2_bytes: int,
    cache: str,
    like: Timer | None,
    sampling_us: float = SAMPLING_US,
) -> EventTimer | GraphTimer:
    """Warm up and choose the rule by a first estimate; see :func:`tuning.timer.open_timer`."""
    launch = launchers(1)[0]
    timer = EventTimer(launch, None if cache == "warm" else _flush_buffer(l2_bytes))
    estimate_us = max(0.5, statistics.median(timer.sample(ESTIMATE_SAMPLES)))
    slow = estimate_us >= GRAPH_BELOW_US if like is None else isinstance(like, EventTimer)
    if slow:
        timer.warm_up(estimate_us)  # as long whatever the window: the clock takes its time
        timer.samples = sample_count(estimate_us, sampling_us, fewest(sampling_us, MIN_SAMPLES))
        return timer
    if cache == "warm":
        return GraphTimer([launch], "graph-warm", estimate_us, sampling_us)
    sets = operand_sets(set_bytes, l2_bytes)
    enough = sets < MAX_SETS
    name = "graph-rotate" if enough else "graph-rotate-partial"
    return GraphTimer(list(launchers(sets)), name, estimate_us, sampling_us)
