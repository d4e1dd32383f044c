"""One line of the table: our answer checked, the peers opened, all of them timed in turns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

from bench.bounds import Executed, bound_of
from bench.pipe_rates import Rate
from bench.product_peers import PROBE_ERRORS
from bench.reach import Row
from bench.reach_peers import Peer, Recorded, Refused, open_peer
from bench.reach_table import Line, timing_of
from bench.winners import Winner
from tiles.kernels import Workload
from tuning.timer import Launchers
from tuning.timing import Timing, time_interleaved
from workbench.verification import RivalTiming

__all__ = ["SEED", "Timer", "line_of", "measure", "time_in_turns"]

SEED = 0
#: From launchers and the bytes of an operand set of each rival to their timings, in that order.
Timer = Callable[[Sequence[tuple[Launchers, int]]], Sequence[Timing]]


def time_in_turns(rivals: Sequence[tuple[Launchers, int]]) -> Sequence[Timing]:
    """On the current GPU, under the workbench's rule."""
    import torch

    l2_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)
    return time_interleaved(rivals, l2_bytes=l2_bytes)


def line_of(row: Row, winner: Winner) -> Line:
    """A line without results."""
    from tiles.kernels.closure import source_digest

    return Line(
        row=row,
        problem=winner.problem,
        kernel=winner.family.name,
        config=winner.config.to_dict(),
        run=winner.run,
        swept_us=winner.swept_us,
        source_sha256=source_digest(winner.family.template),
    )


def _stands(peer: Peer | Recorded | Refused, problem: str) -> RivalTiming:
    """A peer's entry before anything is timed."""
    if isinstance(peer, Refused):
        return RivalTiming(problem=problem, rival=peer.name, time_us=None, refused=peer.reason)
    if isinstance(peer, Recorded):
        return RivalTiming(
            problem=problem,
            rival=peer.name,
            time_us=peer.time_us,
            timing="recorded",
            note=peer.note,
        )
    return RivalTiming(problem=problem, rival=peer.name, time_us=None, note=peer.note)


def measure(
    line: Line,
    winner: Winner,
    open_workload: Callable[[], Workload],
    *,
    timer: Timer = time_in_turns,
    rates: Sequence[Rate] = (),
    executed: Mapping[str, Executed] | None = None,
) -> Line:
    """A line with its results; what fails is told in it.

    Args:
        open_workload: ours, on the device that everything runs on.
        rates: of the pipes, where the row has bounds.
        executed: instructions by problem, where a bound counts them.
    """
    try:
        workload = open_workload()
        accuracy = workload.check(winner.config)
    except PROBE_ERRORS as error:
        return replace(line, wrong=f"{type(error).__name__}: {error}".splitlines()[0])
    line = replace(line, accuracy=asdict(accuracy))
    if not accuracy.ok:
        return replace(line, wrong=accuracy.reason)
    problem = workload.problem
    bounds = (bound_of(name, problem, rates, executed or {}) for name in line.row.bounds)
    line = replace(line, bounds=tuple(bounds))
    opened = [open_peer(name, problem, workload, SEED) for name in line.row.peers]
    able = [peer for peer in opened if isinstance(peer, Peer)]
    rivals: list[tuple[Launchers, int]] = [
        (partial(workload.launchers, winner.config), workload.set_bytes),
        *((peer.launchers, peer.set_bytes) for peer in able),
    ]
    try:
        ours, *others = timer(rivals)
    except PROBE_ERRORS as error:
        return replace(line, wrong=f"timing: {type(error).__name__}: {error}".splitlines()[0])
    timings = {
        peer.name: timing_of(problem, peer.name, t.samples_us, t.timing, note=peer.note)
        for peer, t in zip(able, others, strict=True)
    }
    stand = (_stands(peer, str(problem)) for peer in opened)
    return replace(
        line,
        ours=timing_of(problem, "ours", ours.samples_us, ours.timing),
        peers=tuple(timings.get(peer.rival, peer) for peer in stand),
    )
