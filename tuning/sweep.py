"""The sweep: enumerate, price, seed, search, measure, record."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import optuna
from optuna.storages import JournalStorage

from sim.prediction import PricedTable
from tiles.kernels import Status
from tuning.bench import Bench
from tuning.family import family
from tuning.interrupts import Interrupts
from tuning.journal import JOURNAL, RunJournal
from tuning.plan import Plan, StudyPlan
from tuning.records import Measurement, Run, TrialRecord
from tuning.store import check_folder, quiet_optuna, read_run, store_plan, whole, write_rejections
from tuning.study import Candidates, Study, describe
from tuning.worker import JobLimits

__all__ = ["Pricing", "Progress", "run"]

#: ``sim.price``: problem, kernel, legal configurations, GPU -> predicted times.
Pricing = Callable[..., PricedTable]

#: A simulated trial is recomputed in a millisecond: its journal entries may wait this long.
SIMULATED_FLUSH_S = 0.5
#: TPE proposals drawn together while compilers work ahead.
LOOK_AHEAD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the sweep stands; given to the caller after every trial and every study."""

    study: StudyPlan
    index: int  #: of the study, from 0
    studies: int
    finished: int  #: trials of this study with an outcome, earlier runs included
    budget: int  #: trials after which this study ends
    trial: TrialRecord | None  #: the one that just ended, None at a study's end
    best: TrialRecord | None  #: the study's fastest CORRECT trial so far
    stopped: str = ""  #: at a study's end: why


def run(
    plan: Plan,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    price: Pricing | None = None,
    limits: JobLimits | None = None,
    precompile: int | None = None,
) -> Run:
    """Run a sweep, or go on with one that was interrupted.

    Finished configurations are never measured again.  A KeyboardInterrupt, wherever it strikes,
    ends the worker and leaves a folder that the next call continues.

    Args:
        plan: what to search; ``plan.folder`` is made when it is missing.
        progress: called after every trial and every study, in this thread.
        price: the cost model; ``sim.price`` when None.
        limits: time limits of a measuring job's stages.
        precompile: processes that compile ahead; None = by CPUs and memory, 0 = none.

    Returns:
        The whole run, earlier sessions included.

    Raises:
        ValueError: the folder holds another sweep, is damaged or cannot be written; a kernel
            cannot serve its problem; there is no such device, or it is another GPU; the
            measuring process does not start.
    """
    limits = limits or JobLimits()
    if price is None:
        from sim import price as price_of_sim

        price = price_of_sim
    check_folder(plan)
    found = [_enumerate(plan, study, price) for study in plan.studies]
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        stack.enter_context(quiet_optuna())
        journal = stack.enter_context(RunJournal(plan.folder / JOURNAL))
        path = plan.folder / JOURNAL
        with whole(path):
            storage = JournalStorage(journal)
            read_run(
                plan.folder, plan.to_dict(), plan.gpu, storage
            )  # nothing is measured on a bad record
        bench = None
        if not plan.simulate:
            bench = stack.enter_context(Bench(plan, limits, precompile, interrupts))
            bench.start(found)
        # Once nothing refuses it any more: a stored plan binds the folder to this sweep.
        store_plan(plan)
        write_rejections(plan, ((c.plan, c.space) for c in found))
        deadline = None if plan.time_limit_s is None else time.monotonic() + plan.time_limit_s
        for index, candidates in enumerate(found):
            seconds = None
            if deadline is not None:
                # What earlier studies left over is shared among the rest.
                seconds = max(0.0, deadline - time.monotonic()) / (len(found) - index)
            search = _Search(plan, candidates, index, storage, journal, bench, progress, interrupts)
            search.run(seconds)
        return read_run(plan.folder, plan.to_dict(), plan.gpu, storage)


def _enumerate(plan: Plan, study: StudyPlan, price: Pricing) -> Candidates:
    kernel = family(study.kernel)
    limits = plan.gpu.limits
    refusal = kernel.refusal(study.problem, limits)
    if refusal is not None:
        raise ValueError(f"{study.kernel} cannot serve {study.problem}: {refusal}")
    space = kernel.legal_space(study.problem, limits)
    table = space.accepted
    return Candidates(
        plan=study,
        kernel=kernel,
        space=space,
        priced=price(study.problem, kernel, table, plan.gpu) if len(table) else None,
        path=kernel.path(study.problem, limits).value,
    )


class _Search:
    """One study's search."""

    def __init__(
        self,
        plan: Plan,
        candidates: Candidates,
        index: int,
        storage: JournalStorage,
        journal: RunJournal,
        bench: Bench | None,
        progress: Callable[[Progress], None],
        interrupts: Interrupts,
    ) -> None:
        self._plan = plan
        self._candidates = candidates
        self._index = index
        self._storage = storage
        self._journal = journal
        self._bench = bench
        self._progress = progress
        self._interrupts = interrupts

    def run(self, seconds: float | None) -> None:
        """Search until the study is exhausted or its share of the time is over."""
        candidates = self._candidates
        if candidates.priced is None:
            describe(self._plan, candidates, self._storage)
            self._report(None, None, "no configuration is legal")
            return
        bench = self._bench
        ahead = bench is not None and bench.compiles_ahead(candidates)
        study = Study(
            self._plan,
            candidates,
            self._storage,
            batch=LOOK_AHEAD if ahead else 1,
            announce=None if bench is None else partial(bench.announce, candidates),
        )
        stopped = study.exhausted()
        if not stopped:
            self._optimize(study, seconds)
            stopped = study.exhausted() or "the sweep's time limit was reached"
        if bench is not None:
            self._compare(study, bench)
        study.store_end(stopped)
        self._journal.flush(SIMULATED_FLUSH_S if self._plan.simulate else 0.0)
        self._report(study, None, stopped)

    def _optimize(self, study: Study, seconds: float | None) -> None:
        try:
            study.optuna.optimize(
                partial(self._measure, study),
                n_trials=study.budget - study.finished,
                timeout=seconds,
            )
        except UnboundLocalError as error:
            # An interrupt that strikes while optuna closes a trial trips its own clean-up, which
            # hides the interrupt behind this error.  The next run closes the trial.
            interrupt = error.__context__
            if interrupt is None or isinstance(interrupt, Exception):
                raise
            raise interrupt from None

    def _measure(self, study: Study, trial: optuna.Trial) -> float:
        self._interrupts.check()
        row = study.ask(trial)
        if self._bench is None:
            outcome = Measurement(
                status=Status.CORRECT,
                simulated=True,
                time_us=float(study.priced.time_us[row]),
                timing="simulated",
            )
        else:
            self._journal.flush()  # a trial that kills this process is seen by the next run
            config = study.priced.table.config(row)
            wanted = not study.has_environment
            outcome, environment = self._bench.measure(self._candidates, config, wanted)
            if environment is not None:
                study.store_environment(environment)
        record = study.tell(trial, row, outcome)
        self._journal.flush(SIMULATED_FLUSH_S if self._plan.simulate else 0.0)
        if study.exhausted():
            study.optuna.stop()
        self._report(study, record)
        if outcome.time_us is None:
            # TPE ranks pruned trials behind all others, so it learns to avoid them.
            raise optuna.TrialPruned(outcome.reason)
        return outcome.time_us

    def _compare(self, study: Study, bench: Bench) -> None:
        """Time in turns what is too close to call by samples taken minutes apart."""
        ties = study.ties()
        if len(ties) < 2 or study.compared:
            return
        configs = [study.priced.table.config(study.trials[number][0]) for number in ties]
        timings = bench.compare(self._candidates, configs)
        if isinstance(timings, str):
            study.store_comparison({}, failed=timings)
        else:
            study.store_comparison(dict(zip(ties, timings, strict=True)))

    def _report(self, study: Study | None, trial: TrialRecord | None, stopped: str = "") -> None:
        self._progress(
            Progress(
                study=self._candidates.plan,
                index=self._index,
                studies=len(self._plan.studies),
                finished=0 if study is None else study.finished,
                budget=0 if study is None else study.budget,
                trial=trial,
                best=None if study is None else study.best,
                stopped=stopped,
            )
        )
