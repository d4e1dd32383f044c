"""Contests decided: those that are right are timed in turns, whatever their families."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from tiles.kernels import Kernel, TileConfig
from tuning.bench import Bench
from tuning.family import family
from tuning.interrupts import Interrupts
from tuning.limits import JobLimits
from tuning.plan import Plan, StudyPlan
from tuning.promotion.contest import Contender, Contest, Side, Verdict, decide
from tuning.promotion.contest_record import ContestRecord, write_verdict
from tuning.records import Measurement
from tuning.run_storage import RunStorage
from tuning.timing import Timing

__all__ = ["judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measurable:
    """A study as a bench wants to know it."""

    plan: StudyPlan
    kernel: Kernel


def judge(
    plan: Plan,
    contests: Sequence[Contest],
    min_gain: float,
    storage: RunStorage,
    illegal: Mapping[tuple[str, str, TileConfig], str],
    limits: JobLimits | None,
    interrupts: Interrupts,
) -> tuple[Verdict, ...]:
    """Time in turns what is right, and write down what lost; what was timed before is read.

    Args:
        plan, contests, min_gain, limits: as :func:`tuning.promotion.run.promote` takes them.
        storage: of the run folder, in which every legal contender has been measured.
        illegal: by problem, family and configuration: why it is not legal.
        interrupts: asked before every contest.
    """
    verdicts = []
    with ExitStack() as stack:
        bench: Bench | None = None
        for contest in contests:
            interrupts.check()
            records = {study: ContestRecord(plan, study, storage) for study in contest.studies}
            alone = [_side(contest, one, records, illegal) for one in contest.contenders]
            right = [side for side in alone if side.right]
            stored = records[contest.studies[0]].turns
            turns: Sequence[Timing] | str
            if stored is not None:
                turns = stored if isinstance(stored, str) else _timings(stored, right)
            elif plan.simulate or len(right) < 2:
                turns = []
            else:
                if bench is None:
                    bench = stack.enter_context(Bench(plan, limits or JobLimits(), 0, interrupts))
                    bench.start([_measurable(study) for study in plan.studies])
                turns = bench.compare_families(
                    [_measurable(_study(contest, side)) for side in right],
                    [side.contender.config for side in right],
                )
            sides = _in_turns(alone, right, turns, contest.old)
            old = sides[0] if contest.old is not None else None
            verdict = decide(contest.problem, old, sides[0 if old is None else 1 :], min_gain)
            write_verdict(contest, verdict, sides, turns, records)
            storage.flush()
            verdicts.append(verdict)
    return tuple(verdicts)


def _study(contest: Contest, side: Side) -> StudyPlan:
    return StudyPlan(problem=contest.problem, kernel=side.contender.kernel)


def _measurable(study: StudyPlan) -> _Measurable:
    return _Measurable(plan=study, kernel=family(study.kernel))


def _side(
    contest: Contest,
    one: Contender,
    records: Mapping[StudyPlan, ContestRecord],
    illegal: Mapping[tuple[str, str, TileConfig], str],
) -> Side:
    """A contender as it was measured by itself."""
    reason = illegal.get((str(contest.problem), one.kernel, one.config))
    if reason is not None:
        return Side(contender=one, reason=reason)
    record = records[StudyPlan(problem=contest.problem, kernel=one.kernel)]
    outcome = Measurement.from_dict(record.trials[one.config].user_attrs["measurement"])
    if outcome.time_us is None:
        return Side(contender=one, reason=f"{outcome.status.value}: {outcome.reason}")
    return Side(
        contender=one,
        time_us=outcome.time_us,
        samples_us=outcome.samples_us,
        timing=outcome.timing,
    )


def _timings(stored: Sequence[Mapping[str, Any]], right: Sequence[Side]) -> list[Timing]:
    assert len(stored) in (0, len(right)), "contenders were added to a decided contest"
    return [Timing.from_dict({"conditions": None, **one}) for one in stored]


def _in_turns(
    alone: Sequence[Side],
    right: Sequence[Side],
    turns: Sequence[Timing] | str,
    old: Contender | None,
) -> list[Side]:
    """All sides, the right ones with their times in turns."""
    if isinstance(turns, str):
        # By samples taken apart nothing is promoted over an entry that is right.  Where there is
        # none, one of the new holds the entry, by whatever times there are.
        stays = alone[0] if old is not None and alone[0].right else None
        if stays is None:
            return list(alone)
        reason = f"it could not be timed in turns with the old entry: {turns}"
        return [
            side
            if side is stays or not side.right
            else Side(contender=side.contender, reason=reason)
            for side in alone
        ]
    timed = {
        id(side): replace(
            side,
            time_us=one.time_us,
            samples_us=one.samples_us,
            timing=one.in_turns()["timing"],
        )
        for side, one in zip(right, turns, strict=False)
    }
    return [timed.get(id(side), side) for side in alone]
