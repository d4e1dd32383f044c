"""Contests measured by the engine of sweeps: a run folder in which the winners alone count.

Every contender is a trial of a study, checked and measured as a sweep does it, so that what was
killed goes on where it was; then those of a contest that are right are timed in turns, whatever
their families.  What lost does not count any more, and emission finds one winner a problem.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tiles.kernels import ConfigTable, Rejected, TileConfig
from tuning.candidates import Candidates, Pricing
from tuning.comparison import GROUP
from tuning.interrupts import Interrupts
from tuning.journal_file import JOURNAL
from tuning.limits import JobLimits
from tuning.plan import Plan, Strategy, StudyPlan
from tuning.promotion.contest import Contest, Verdict
from tuning.promotion.judging import judge
from tuning.records import Run
from tuning.rejections import write_rejections
from tuning.run_storage import RunStorage
from tuning.search import Progress
from tuning.store import check_folder, quiet_optuna, read_run, store_plan, whole
from tuning.sweep import Again, enumerate_studies, search_studies

if TYPE_CHECKING:
    from sim import Gpu

__all__ = ["Promoted", "plan_of", "promote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """What became of all contests."""

    verdicts: tuple[Verdict, ...]
    run: Run


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
        verdicts = judge(plan, contests, min_gain, storage, illegal, limits, interrupts)
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
