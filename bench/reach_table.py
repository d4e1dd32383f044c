"""Ratios by problem, geometric mean and worst by row, as data and as text."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.reach import ROWS, Goal, Row
from tiles.problems import Problem
from workbench.verification import RivalTiming

__all__ = ["Line", "Summary", "line_text", "summaries", "table_text", "timing_of"]


def timing_of(
    problem: Problem,
    name: str,
    samples_us: Sequence[float],
    timing: str,
    *,
    note: str = "",
) -> RivalTiming:
    """Median and interquartile range of raw samples.

    Raises:
        ValueError: no sample.
    """
    if not samples_us:
        raise ValueError(f"{problem}, {name}: no sample")
    from tiles.kernels import Status
    from tuning.records import Measurement
    from tuning.timing import Timing

    taken = Timing.of(samples_us, timing)
    kept = Measurement(
        status=Status.CORRECT,
        simulated=False,
        time_us=taken.time_us,
        samples_us=taken.samples_us,
        timing=timing,
    )
    return RivalTiming(
        problem=str(problem),
        rival=name,
        time_us=taken.time_us,
        iqr_us=kept.iqr_us,
        samples_us=taken.samples_us,
        timing=timing,
        note=note,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One problem: our winner beside its peers."""

    row: Row
    problem: Problem
    kernel: str
    config: dict[str, Any]
    run: str  #: the sweep's folder
    swept_us: float  #: what the sweep took for it; simulated in a dry run
    source_sha256: str  #: of the kernel's source files as they are now
    ours: RivalTiming | None = None  #: None where nothing was timed
    peers: tuple[RivalTiming, ...] = ()  #: those that did not run say why
    bound_us: float | None = None
    accuracy: dict[str, Any] | None = None  #: of our answer
    wrong: str = ""  #: why our answer, or our launch, is no good

    @property
    def rival(self) -> RivalTiming | None:
        """The fastest peer that ran."""
        ran = [peer for peer in self.peers if peer.time_us is not None]
        return min(ran, key=lambda peer: peer.time_us or 0.0, default=None)

    @property
    def ratio(self) -> float | None:
        """The fastest peer's time, or the bound where that is longer, over ours."""
        if self.wrong or self.ours is None or not self.ours.time_us or self.rival is None:
            return None
        assert self.rival.time_us is not None
        return max(self.rival.time_us, self.bound_us or 0.0) / self.ours.time_us

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        given = {name: getattr(self, name) for name in self.__slots__}
        return given | {
            "row": self.row.name,
            "problem": str(self.problem),
            "ours": None if self.ours is None else asdict(self.ours),
            "peers": [asdict(peer) for peer in self.peers],
            "ratio": self.ratio,
            "against": None if self.rival is None else self.rival.rival,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One row of the table, over the problems of one goal."""

    row: str
    against: str
    where: str
    problems: int  #: that have a ratio
    without: int  #: that have none: no peer took them, or our answer was wrong
    geomean: float | None
    worst: float | None
    worst_problem: str
    goal_geomean: float | None
    goal_worst: float | None

    @property
    def reached(self) -> bool | None:
        """Whether both goals are; ``None`` without a goal or a ratio."""
        if self.goal_geomean is None or self.geomean is None or self.worst is None:
            return None
        return self.geomean >= self.goal_geomean and self.worst >= (self.goal_worst or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"reached": self.reached}


def _summary(row: Row, goal: Goal | None, lines: Sequence[Line]) -> Summary:
    rated = [(line.ratio, str(line.problem)) for line in lines if line.ratio is not None]
    worst = min(rated, default=None)
    mean = math.exp(math.fsum(math.log(r) for r, _ in rated) / len(rated)) if rated else None
    return Summary(
        row=row.name,
        against=row.against,
        where="" if goal is None else goal.where,
        problems=len(rated),
        without=len(lines) - len(rated),
        geomean=mean,
        worst=None if worst is None else worst[0],
        worst_problem="" if worst is None else worst[1],
        goal_geomean=None if goal is None else goal.geomean,
        goal_worst=None if goal is None else goal.worst,
    )


def summaries(lines: Iterable[Line]) -> list[Summary]:
    """Geometric mean and worst of every row and goal that has problems, in the table's order.

    A row without goals is summed up over all its problems.
    """
    every = list(lines)
    found = []
    for row in ROWS:
        own = [line for line in every if line.row is row]
        for goal in row.goals or (None,):
            taken = [line for line in own if goal is None or goal.takes(line.problem)]
            if taken:
                found.append(_summary(row, goal, taken))
    return found


def _speed(line: Line) -> str:
    assert line.ours is not None
    assert line.ours.time_us is not None
    if line.problem.flops:
        return f"{line.problem.flops / line.ours.time_us / 1e6:6.0f} TFLOP/s"
    return f"{line.problem.min_bytes / line.ours.time_us / 1e3:6.0f} GB/s"


def _spread(timing: RivalTiming) -> str:
    if timing.iqr_us is None or not timing.time_us:
        return ""
    return f" (IQR {100 * timing.iqr_us / timing.time_us:.0f} %)"


def line_text(line: Line) -> str:
    """One line for a problem, as soon as it is known."""
    head = f"{line.problem!s:52} {line.kernel:22}"
    if line.wrong:
        return f"{head} FAILED: {line.wrong}"
    peers = []
    for peer in line.peers:
        if peer.refused:
            peers.append(f"{peer.rival}: refused, {peer.refused}")
        elif peer.time_us is None or line.ours is None or not line.ours.time_us:
            peers.append(f"{peer.rival}: right")
        else:
            ratio = peer.time_us / line.ours.time_us
            peers.append(f"{peer.rival}: {ratio:.2f}{_spread(peer)}")
    if line.bound_us is not None and line.ours is not None and line.ours.time_us:
        peers.append(f"{line.row.bound_name}: {line.bound_us / line.ours.time_us:.2f}")
    if line.ours is None:
        return f"{head} right, not timed; {'; '.join(peers)}"
    return f"{head} {line.ours.time_us:9.1f} us{_spread(line.ours)} {_speed(line)}  " + "; ".join(
        peers
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def table_text(table: Sequence[Summary]) -> str:
    """The table, in Markdown."""
    lines = [
        "| kernel | against | where | problems | geomean | asked | worst | asked | reached |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for one in table:
        count = f"{one.problems}" + (f" (+{one.without} without)" if one.without else "")
        cells = (
            one.row,
            one.against,
            one.where or "all",
            count,
            _figure(one.geomean),
            _figure(one.goal_geomean),
            _figure(one.worst) + (f" at {one.worst_problem}" if one.worst_problem else ""),
            _figure(one.goal_worst),
            {True: "yes", False: "no", None: "-"}[one.reached],
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
