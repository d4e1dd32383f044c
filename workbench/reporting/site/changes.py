"""What is new, faster, slower or gone since the site was last written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from workbench.reporting.site.stored import Previous
from workbench.reporting.site.studies import SiteStudy

__all__ = ["Change", "Changes", "Kind", "changes", "noise"]

#: Two sweeps of the same kernel on the same board differ by this much without a reason: the clock
#: follows the board's temperature, which the samples of one sitting do not show.
LEAST_NOISE = 0.02
#: Predictions have no noise; this is below what their tables print.
LEAST_PREDICTED = 0.001


class Kind(Enum):
    """How a study stands beside the same one of the site before."""

    NEW = "new"  #: it had no result
    FASTER = "faster"  #: by more than the noise of both
    SLOWER = "slower"  #: by more than the noise of both
    SAME = "within noise"
    GONE = "gone"  #: it has no result any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A study then and now; one of the two is missing where it is new or gone."""

    kind: Kind
    before: SiteStudy | None
    now: SiteStudy | None
    noise: float = 0.0  #: relative difference that means nothing
    reason: str = ""  #: why it is gone

    @property
    def study(self) -> SiteStudy:
        """The one of both that there is, preferably the present one."""
        found = self.now or self.before
        assert found is not None
        return found

    @property
    def difference(self) -> float | None:
        """Relative change of the time, of the study's own kind: below 0 faster."""
        if self.before is None or self.now is None:
            return None
        then, here = self.before.time_us, self.now.time_us
        return None if then is None or here is None else here / then - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """All studies compared with the site before."""

    since: str | None  #: when that one was written; None when this is the first
    rows: tuple[Change, ...]

    def of(self, kind: Kind) -> list[Change]:
        """Those of one kind, the largest change first."""
        found = [row for row in self.rows if row.kind is kind]
        return sorted(found, key=lambda row: -abs(row.difference or 0.0))


def changes(
    previous: Previous | None, studies: Sequence[SiteStudy], unread: Sequence[str] = ()
) -> Changes:
    """Compare studies with those of the site before; what has no result does not count.

    Args:
        unread: names of runs that are there and could not be read.
    """
    if previous is None:
        return Changes(since=None, rows=())
    then = {study.key: study for study in previous.studies if study.time_us is not None}
    here = {study.key: study for study in studies if study.time_us is not None}
    rows = [_compared(then.get(key), study) for key, study in here.items()]
    rows += [
        Change(kind=Kind.GONE, before=study, now=None, reason=_why_gone(study, here, unread))
        for key, study in then.items()
        if key not in here
    ]
    return Changes(since=previous.written, rows=tuple(rows))


def noise(before: SiteStudy, now: SiteStudy) -> float:
    """Relative difference of two times that means nothing.

    Both interquartile ranges, each over its own median, added as independent, and never less than
    :data:`LEAST_NOISE`; of predictions :data:`LEAST_PREDICTED`.
    """
    if now.simulated:
        return LEAST_PREDICTED
    spreads = [
        study.iqr_us / study.measured_us
        for study in (before, now)
        if study.iqr_us is not None and study.measured_us
    ]
    return max(LEAST_NOISE, math.hypot(*spreads))


def _compared(before: SiteStudy | None, now: SiteStudy) -> Change:
    if before is None:
        return Change(kind=Kind.NEW, before=None, now=now)
    row = Change(kind=Kind.SAME, before=before, now=now, noise=noise(before, now))
    difference = row.difference
    assert difference is not None
    if abs(difference) <= row.noise:
        return row
    kind = Kind.SLOWER if difference > 0 else Kind.FASTER
    return Change(kind=kind, before=before, now=now, noise=row.noise)


def _why_gone(
    study: SiteStudy, here: dict[tuple[str, str, str, str, bool], SiteStudy], unread: Sequence[str]
) -> str:
    if study.run in unread:
        return "its run cannot be read"
    if study.simulated and (*study.key[:-1], False) in here:
        return "measured now"
    if any(key[0] == study.run for key in here):
        return "its run has no result of it any more"
    return "its run is not there any more"
