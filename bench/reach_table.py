"""Ratios by problem, geometric mean and worst by row, as data and as text."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.reach import ROWS, Goal, Row
from tiles.problems import Problem, parse_problem
from workbench.verification import RivalTiming

__all__ = ["Bound", "Line", "Summary", "line_text", "summaries", "table_text", "timing_of"]


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
class Bound:
    """A time that the hardware cannot go below, from rates measured in the same run."""

    name: str
    time_us: float | None = None  #: None where a rate or a count is not there
    how: str = ""  #: what was counted at which rate, and which of them binds
    refused: str = ""  #: why there is none


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
    bounds: tuple[Bound, ...] = ()  #: those that are not known say why
    accuracy: dict[str, Any] | None = None  #: of our answer; None where it was compiled alone
    wrong: str = ""  #: why our answer, or our launch, is no good
    session: int = 0  #: which of the record's runs measured it

    @property
    def key(self) -> tuple[str, ...]:
        """What a line measures: a record holds each once."""
        return self.row.name, str(self.problem), self.kernel, str(self.config), self.source_sha256

    def reference(self, goal: Goal) -> tuple[float, str] | None:
        """Time and name of what ours is compared with under a goal."""
        others: tuple[RivalTiming | Bound, ...] = (*self.peers, *self.bounds)
        names = goal.against or self.row.peers
        found = [
            (one.time_us, name)
            for one in others
            if (name := one.name if isinstance(one, Bound) else one.rival) in names
            and one.time_us is not None
        ]
        return (max if goal.slowest else min)(found, default=None)

    def ratio(self, goal: Goal) -> float | None:
        """The time of what a goal compares with over ours."""
        if self.wrong or self.ours is None or not self.ours.time_us:
            return None
        reference = self.reference(goal)
        return None if reference is None else reference[0] / self.ours.time_us

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        given = {name: getattr(self, name) for name in self.__slots__}
        return given | {
            "row": self.row.name,
            "problem": str(self.problem),
            "ours": None if self.ours is None else asdict(self.ours),
            "peers": [asdict(peer) for peer in self.peers],
            "bounds": [asdict(bound) for bound in self.bounds],
            "ratios": {
                name: self.ratio(Goal(against=(name,)))
                for name in (*self.row.peers, *self.row.bounds)
            },
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Line":
        """Read what :meth:`to_dict` wrote.

        Raises:
            KeyError: a row that the table no longer has, or a field that is missing.
            ValueError, TypeError: a problem or a field of another kind.
        """
        rows = {row.name: row for row in ROWS}
        given = {name: data[name] for name in cls.__slots__}
        return cls(
            **given
            | {
                "row": rows[data["row"]],
                "problem": parse_problem(data["problem"]),
                "ours": None if data["ours"] is None else _timing(data["ours"]),
                "peers": tuple(map(_timing, data["peers"])),
                "bounds": tuple(Bound(**bound) for bound in data["bounds"]),
            }
        )


def _timing(data: dict[str, Any]) -> RivalTiming:
    return RivalTiming(**data | {"samples_us": tuple(data["samples_us"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One row of the table, over the problems of one goal."""

    row: str
    against: str
    where: str
    problems: int  #: that have a ratio
    without: int  #: that were begun and have none: no peer took them, or our answer was wrong
    missing: int  #: of the row's list, not begun
    geomean: float | None
    worst: float | None
    worst_problem: str
    goal_geomean: float | None
    goal_worst: float | None
    note: str  #: what is counted on either side

    @property
    def reached(self) -> bool | None:
        """Whether what is asked holds; ``None`` where nothing is asked, or nothing measured."""
        asked = ((self.geomean, self.goal_geomean), (self.worst, self.goal_worst))
        pairs = [(found, goal) for found, goal in asked if goal is not None]
        if not pairs or any(found is None or math.isnan(found) for found, _ in pairs):
            return None
        return all(found >= goal for found, goal in pairs if found is not None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"reached": self.reached}


def _against(row: Row, goal: Goal) -> str:
    word = ", the slowest of them" if goal.slowest else ""
    return " or ".join(goal.against or row.peers) + word


def _agreed(row: Row, lines: Sequence[Line]) -> list[Line]:
    """Those that every peer took, of the peers that took any."""

    def takers(line: Line) -> set[str]:
        timed = {peer.rival for peer in line.peers if peer.time_us is not None}
        return timed & set(row.peers)

    every = set[str]().union(*map(takers, lines))
    return [line for line in lines if takers(line) == every]


def _summary(row: Row, goal: Goal, lines: Sequence[Line]) -> Summary:
    begun = {str(line.problem) for line in lines}
    lines = _agreed(row, lines) if goal.agreed else lines
    rated = [(r, str(line.problem)) for line in lines if (r := line.ratio(goal)) is not None]
    worst = min(rated, default=None)
    mean = math.exp(math.fsum(math.log(r) for r, _ in rated) / len(rated)) if rated else None
    asked = [text for text in row.problems if goal.takes(parse_problem(text))]
    return Summary(
        row=row.name,
        against=_against(row, goal),
        where=goal.where,
        problems=len(rated),
        without=len(lines) - len(rated),
        missing=sum(text not in begun for text in asked),
        geomean=mean,
        worst=None if worst is None else worst[0],
        worst_problem="" if worst is None else worst[1],
        goal_geomean=goal.geomean,
        goal_worst=goal.worst,
        note=row.note,
    )


def summaries(lines: Iterable[Line]) -> list[Summary]:
    """Geometric mean and worst of every row and goal, in the table's order.

    Rows that nothing was measured of are there too: a table that leaves them out reads as if all
    was well.
    """
    every = list(lines)
    return [
        _summary(
            row, goal, [line for line in every if line.row is row and goal.takes(line.problem)]
        )
        for row in ROWS
        for goal in row.goals
    ]


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
    assert line.ours is not None
    assert line.ours.time_us is not None
    others = []
    for peer in line.peers:
        if peer.time_us is None:
            others.append(f"{peer.rival}: refused, {peer.refused}")
        else:
            ratio = peer.time_us / line.ours.time_us
            others.append(f"{peer.rival}: {ratio:.2f}{_spread(peer)}")
    for bound in line.bounds:
        if bound.time_us is None:
            others.append(f"{bound.name}: {bound.refused}")
        else:
            ratio = bound.time_us / line.ours.time_us
            others.append(f"{bound.name}: {ratio:.2f} ({bound.how})")
    return f"{head} {line.ours.time_us:9.1f} us{_spread(line.ours)} {_speed(line)}  " + "; ".join(
        others
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
        count += f" (+{one.missing} not begun)" if one.missing else ""
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
