"""Contests measured by the engine of sweeps: a run folder in which the winners alone count.

Every contender is a trial of a study, checked and measured as a sweep does it, so that what was
killed goes on where it was; then those of a contest that are right are timed in turns, whatever
their families.  What lost does not count any more, and emission finds one winner a problem.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from tiles.kernels import ConfigTable, Kernel, Rejected, TileConfig
from tuning.bench import Bench
from tuning.candidates import Candidates, Pricing
from tuning.comparison import GROUP
from tuning.family import family
from tuning.interrupts import Interrupts
from tuning.journal_file import JOURNAL
from tuning.limits import JobLimits
from tuning.plan import Plan, Strategy, StudyPlan
from tuning.promotion.contest import Contender, Contest, Side, Verdict, decide
from tuning.records import Measurement, Run
from tuning.rejections import write_rejections
from tuning.run_storage import RunStorage
from tuning.search import Progress
from tuning.store import check_folder, quiet_optuna, read_run, store_plan, whole
from tuning.sweep import Again, enumerate_studies, search_studies
from tuning.timing import Timing

if TYPE_CHECKING:
    from sim import Gpu

__all__ = ["ATTRIBUTE", "Promoted", "plan_of", "promote"]

#: Study attribute: which of its trials lost a contest and why, and times in turns of all.
ATTRIBUTE = "promotion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """What became of all contests."""

    verdicts: tuple[Verdict, ...]
    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measurable:
    """A study as a bench wants to know it."""

    plan: StudyPlan
    kernel: Kernel


def plan_of(
    contests: Sequence[Contest], gpu: "Gpu", folder: Any, *, simulate: bool, cache: str, seed: int
) -> Plan:
    """The plan of the run folder that contests are measured in.

    Raises:
        ValueError: a value that no plan has, or more contenders than take turns at once.
    """
    for contest in contests:
        if len(contest.contenders) > GROUP:
            raise ValueError(
                f"{contest.problem}: {len(contest.contenders)} contenders, at most {GROUP} take "
                "turns: leave the slower ones out"
            )
    return Plan(
        studies=tuple(dict.fromkeys(study for one in contests for study in one.studies)),
        gpu=gpu,
        folder=folder,
        strategy=Strategy.EXHAUSTIVE,
        max_measurements=GROUP,
        simulate=simulate,
        cache=cache,
        seed=seed,
    )


def promote(
    plan: Plan,
    contests: Sequence[Contest],
    min_gain: float,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    begin: Callable[[], None] = lambda: None,
    price: Pricing | None = None,
    limits: JobLimits | None = None,
    precompile: int | None = None,
) -> Promoted:
    """Decide contests, or go on with what was interrupted.

    Args:
        plan: of :func:`plan_of` for these contests.
        contests: one a problem and function.
        min_gain: 0.03 for 3 %.
        progress: called after every measurement.
        begin: called once when nothing stands in the way any more.
        price, limits, precompile: as :func:`tuning.run` takes them.
    Raises:
        ValueError: the folder holds another sweep; a kernel cannot serve its problem; there is no
            such device, or it is another GPU; stored results are stale.
    """
    check_folder(plan)
    found = enumerate_studies(plan, price)
    asked: dict[StudyPlan, list[TileConfig]] = {study: [] for study in plan.studies}
    for contest in contests:
        for one in contest.contenders:
            asked[StudyPlan(problem=contest.problem, kernel=one.kernel)].append(one.config)
    illegal: dict[tuple[str, str, TileConfig], str] = {}
    chosen = [_restricted(one, asked[one.plan], plan, illegal) for one in found]
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        stack.enter_context(quiet_optuna())
        storage = stack.enter_context(RunStorage(plan.folder))
        with whole(plan.folder / JOURNAL):
            read_run(plan.folder, plan.to_dict(), plan.gpu, storage)

        def start() -> None:
            with storage.choosing(""):
                check_folder(plan)
                begin()  # before the plan, so that no moment shows a sweep without its promotion
                store_plan(plan)
                write_rejections(plan, ((one.plan, one.space) for one in found))

        search_studies(
            plan,
            chosen,
            storage,
            progress,
            start,
            interrupts,
            limits=limits,
            precompile=precompile,
            retry_failures=True,  # what failed in another sweep is tried: here it is judged
            again=Again.REFUSE,
        )
        verdicts = _decided(plan, contests, min_gain, storage, illegal, limits, interrupts)
        run = read_run(plan.folder, plan.to_dict(), plan.gpu, storage)
    return Promoted(verdicts=verdicts, run=run)


def _restricted(
    study: Candidates,
    configs: Sequence[TileConfig],
    plan: Plan,
    illegal: dict[tuple[str, str, TileConfig], str],
) -> Candidates:
    """A study of these configurations alone; why others are not legal is noted."""
    legal = []
    for config in dict.fromkeys(configs):
        judged = study.kernel.judge(study.plan.problem, config, plan.gpu.limits)
        if isinstance(judged, Rejected):
            key = (str(study.plan.problem), study.plan.kernel, config)
            illegal[key] = f"not legal: {judged.rule}: {judged.reason}"
        else:
            legal.append(config)
    if not legal:
        return replace(study, priced=None)
    table = ConfigTable.of(legal)
    priced = study.price(study.plan.problem, study.kernel, table, plan.gpu)
    return replace(study, priced=priced)


def _decided(
    plan: Plan,
    contests: Sequence[Contest],
    min_gain: float,
    storage: RunStorage,
    illegal: Mapping[tuple[str, str, TileConfig], str],
    limits: JobLimits | None,
    interrupts: Interrupts,
) -> tuple[Verdict, ...]:
    """Time in turns what is right, and write down what lost; what was timed before is read."""
    verdicts = []
    with ExitStack() as stack:
        bench: Bench | None = None
        for contest in contests:
            interrupts.check()
            records = {study: _Record(plan, study, storage) for study in contest.studies}
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
            _write(contest, verdict, sides, turns, records)
            storage.flush()
            verdicts.append(verdict)
    return tuple(verdicts)


class _Record:
    """A study's trials and what was decided of them."""

    def __init__(self, plan: Plan, study: StudyPlan, storage: RunStorage) -> None:
        self._storage = storage
        self._id = storage.get_study_id_from_name(plan.study_name(study))
        self._config = family(study.kernel).config_type
        self.trials: dict[TileConfig, FrozenTrial] = {}
        for trial in storage.get_all_trials(self._id, deepcopy=False):
            if "measurement" in trial.user_attrs:
                self.trials.setdefault(self._config.from_dict(trial.params), trial)

    @property
    def turns(self) -> Any:
        """Times in turns of the contest's right ones, or why there are none; None: not yet."""
        return self._attributes.get(ATTRIBUTE, {}).get("turns")

    @property
    def _attributes(self) -> Mapping[str, Any]:
        storage: BaseStorage = self._storage
        return storage.get_study_user_attrs(self._id)

    def keep(self, content: dict[str, Any]) -> None:
        """Write down what was decided, unless that is there."""
        if self._attributes.get(ATTRIBUTE) != content:
            self._storage.set_study_user_attr(self._id, ATTRIBUTE, content)


def _study(contest: Contest, side: Side) -> StudyPlan:
    return StudyPlan(problem=contest.problem, kernel=side.contender.kernel)


def _measurable(study: StudyPlan) -> _Measurable:
    return _Measurable(plan=study, kernel=family(study.kernel))


def _side(
    contest: Contest,
    one: Contender,
    records: Mapping[StudyPlan, _Record],
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


def _write(
    contest: Contest,
    verdict: Verdict,
    sides: Sequence[Side],
    turns: Sequence[Timing] | str,
    records: Mapping[StudyPlan, _Record],
) -> None:
    """The first study's record comes last: with it the contest is decided."""
    winner = verdict.winner
    told: Any = (
        turns
        if isinstance(turns, str)
        else [
            {"time_us": t.time_us, "samples_us": list(t.samples_us), "timing": t.timing}
            for t in turns
        ]
    )
    for study in reversed(contest.studies):
        record = records[study]
        lost: dict[str, str] = {}
        timings: dict[str, Any] = {}
        for side in sides:
            trial = record.trials.get(side.contender.config)
            if side.contender.kernel != study.kernel or trial is None or not side.right:
                continue
            if turns and not isinstance(turns, str):
                timings[str(trial.number)] = {
                    "time_us": side.time_us,
                    "samples_us": list(side.samples_us),
                    "timing": side.timing,
                }
            if winner is None or side.contender != winner.contender:
                lost[str(trial.number)] = f"lost its contest: {verdict.reason}"
        for side in sides:  # right by itself, yet not timed in turns
            trial = record.trials.get(side.contender.config)
            if side.contender.kernel == study.kernel and trial is not None and not side.right:
                lost[str(trial.number)] = f"lost its contest: {side.reason}"
        content: dict[str, Any] = {"lost": lost, "timings": timings}
        if study == contest.studies[0]:
            content["turns"] = told
        record.keep(content)
