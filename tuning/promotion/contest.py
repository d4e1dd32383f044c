"""Who stands against whom for a problem, and by which rule one of them is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tiles.kernels import TileConfig
from tiles.problems import Problem
from tuning.plan import StudyPlan

__all__ = ["Contender", "Contest", "Side", "Status", "Verdict", "decide", "quartiles"]


class Status(Enum):
    """What became of an entry."""

    PROMOTED = "promoted"  #: the new one is right, and faster by the least gain and beyond noise
    REFUSED = "refused"  #: the new one is wrong, fails, or is not so much faster
    KEPT = "kept old"  #: there is nothing new


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A configuration of a family, and what it took where it was found."""

    kernel: str
    config: TileConfig
    before_us: float | None = None  #: as its sweep or package says; None where that is not known

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "kernel": self.kernel,
            "config": self.config.to_dict(),
            "before_us": self.before_us,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A problem, the entry that it has and those that it may get, best first."""

    problem: Problem
    old: Contender | None
    new: tuple[Contender, ...]

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """All of them, the old one first."""
        return self.new if self.old is None else (self.old, *self.new)

    @property
    def studies(self) -> tuple[StudyPlan, ...]:
        """The studies that their measurements belong to."""
        kernels = dict.fromkeys(one.kernel for one in self.contenders)
        return tuple(StudyPlan(problem=self.problem, kernel=name) for name in kernels)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "problem": str(self.problem),
            "old": None if self.old is None else self.old.to_dict(),
            "new": [one.to_dict() for one in self.new],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A contender as it was measured now."""

    contender: Contender
    reason: str = ""  #: why it is not right; "" when it is
    time_us: float | None = None  #: median, in turns where there was a rival; None: not right
    samples_us: tuple[float, ...] = ()  #: none of a simulated one
    timing: str = ""

    @property
    def right(self) -> bool:
        """Whether its answer was right and it was timed."""
        return self.time_us is not None

    @property
    def iqr_us(self) -> float | None:
        """Interquartile range of the samples."""
        if len(self.samples_us) < 4:
            return None
        low, high = quartiles(self.samples_us)
        return high - low


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was decided of a contest."""

    problem: Problem
    status: Status
    reason: str
    old: Side | None
    new: Side | None  #: the fastest right one of the new, or the first of those that failed
    winner: Side | None  #: who has the entry from now on; None where nobody is right

    @property
    def gain(self) -> float | None:
        """By how much the new one is faster: 0.05 for 5 %; None where one of them has no time."""
        if self.old is None or self.new is None:
            return None
        if self.old.time_us is None or self.new.time_us is None:
            return None
        return self.old.time_us / self.new.time_us - 1


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """Lower and upper quartile, samples themselves."""
    ordered = sorted(samples)
    return ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]


def decide(problem: Problem, old: Side | None, new: Sequence[Side], min_gain: float) -> Verdict:
    """Keep the old entry unless the new one is right and faster beyond noise.

    Faster beyond noise: by ``min_gain`` between the medians, by something in any case, and three
    quarters of the new one's samples lie below three quarters of the old one's.  A simulated time
    has no samples and no noise.  Of several new ones the fastest for which that holds is taken.

    Args:
        problem: what all of them compute.
        old: the entry that there is, if any.
        new: those that may take its place.
        min_gain: 0.03 for 3 %.
    """
    right = sorted((one for one in new if one.right), key=lambda one: one.time_us or 0.0)
    first = next(iter([*right, *new]), None)

    def verdict(status: Status, reason: str, best: Side | None, winner: Side | None) -> Verdict:
        return Verdict(
            problem=problem, status=status, reason=reason, old=old, new=best, winner=winner
        )

    held = old if old is not None and old.right else None
    lost = "" if old is None or held else f"; the old entry is not right either: {old.reason}"
    if first is None:
        return verdict(Status.KEPT, f"nothing new stands against it{lost}", None, held)
    if not first.right:
        return verdict(Status.REFUSED, f"{first.reason}{lost}", first, held)
    if old is None:
        return verdict(Status.PROMOTED, "there is no old entry", first, first)
    if held is None:
        return verdict(Status.PROMOTED, f"the old entry is not right: {old.reason}", first, first)
    refused = ""
    for best in right:
        said, why = _compared(held, best, min_gain)
        if not why:
            reason = f"faster: {said} between medians, beyond noise"
            return verdict(Status.PROMOTED, reason, best, best)
        refused = refused or why
    return verdict(Status.REFUSED, refused, first, held)


def _compared(held: Side, best: Side, min_gain: float) -> tuple[str, str]:
    """By how much a new entry is faster, and why it does not replace the old one; "" if it does."""
    assert held.time_us is not None
    assert best.time_us is not None
    gain = held.time_us / best.time_us - 1
    said = f"{100 * gain:+.1f} %"
    if gain < min_gain:
        return said, f"not faster by {100 * min_gain:g} %: {said} between medians"
    if held.samples_us and best.samples_us:
        floor, ceiling = quartiles(held.samples_us)[0], quartiles(best.samples_us)[1]
        if ceiling >= floor:
            return said, (
                f"not faster beyond noise: {said} between medians, but its upper quartile "
                f"{ceiling:.3f} us is not below the old one's lower {floor:.3f} us"
            )
    return said, "" if gain > 0 else f"not faster: {said} between medians"
