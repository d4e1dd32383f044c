"""One study's search: draws configurations, measures them, and shares the work with others."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from tiles.kernels import Status
from tuning.bench import Bench
from tuning.candidates import Candidates, describe
from tuning.comparison import GROUP, LATE, compare_all
from tuning.energy import Energy
from tuning.interrupts import Interrupts
from tuning.known_failures import KnownFailures
from tuning.objective import Objective
from tuning.plan import Plan, Strategy, StudyPlan
from tuning.records import Measurement, TrialRecord
from tuning.run_storage import RunStorage
from tuning.study import Study, Surplus
from tuning.turn import TIME_IS_UP, Turn

if TYPE_CHECKING:
    from tuning.fleet_storage import FleetStorage

__all__ = ["Progress", "Search", "search_all"]

#: A simulated trial is recomputed in a millisecond: its journal entries may wait this long.
SIMULATED_FLUSH_S = 0.5
#: Proposals drawn together while compilers work ahead.
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
    best: TrialRecord | None  #: the study's best CORRECT trial so far
    stopped: str = ""  #: at a study's end: why
    objective: Objective = Objective.TIME  #: what ``best`` has the least of


class Search:
    """One study's search in this process.

    Args:
        bench: measures; None for a simulated sweep.
        failures: what is known to fail; None to try everything.
    """

    def __init__(
        self,
        plan: Plan,
        candidates: Candidates,
        index: int,
        storage: "RunStorage | FleetStorage",
        *,
        bench: Bench | None,
        failures: KnownFailures | None,
        progress: Callable[[Progress], None],
        interrupts: Interrupts,
    ) -> None:
        self._plan = plan
        self._candidates = candidates
        self._index = index
        self._storage = storage
        self._bench = bench
        self._failures = failures
        self._progress = progress
        self._interrupts = interrupts
        self._study: Study | None = None
        self.done = False

    def run(self, seconds: float | None, studies: int = 1) -> None:
        """Search until the study is exhausted, its share of the time is over, or the rest runs
        elsewhere; :attr:`done` is False in the last case.

        Args:
            seconds: that the sweep has left; None: there is no limit.
            studies: that share them, this one included.
        """
        candidates = self._candidates
        if candidates.priced is None:
            with self._storage.choosing(""):
                describe(self._plan, candidates, self._storage)
            self._report("no configuration is legal")
            self.done = True
            return
        if self._study is None:
            self._study = self._open()
        study = self._study
        turn = Turn(seconds, studies, time.monotonic)
        stopped = study.look_around()
        while not stopped and not study.idle:
            if turn.full:
                stopped = TIME_IS_UP
                break
            self._optimize(study, turn)
            stopped = study.look_around()
        if stopped:
            self._finish(study, stopped, turn)

    def _open(self) -> Study:
        bench = self._bench
        ahead = bench is not None and bench.compiles_ahead(self._candidates)
        return Study(
            self._plan,
            self._candidates,
            self._storage,
            batch=LOOK_AHEAD if ahead else 1,
            announce=None if bench is None else partial(bench.announce, self._candidates),
        )

    def _finish(self, study: Study, stopped: str, turn: Turn) -> None:
        if self._bench is not None and not self._compared(study, self._bench, turn):
            return  # another process does; should it die, the comparison is this one's
        study.attributes.store_end(stopped)
        self._storage.flush(SIMULATED_FLUSH_S if self._plan.simulate else 0.0)
        self._report(stopped)
        self.done = True

    def _optimize(self, study: Study, turn: Turn) -> None:
        try:
            study.optuna.optimize(
                partial(self._measure, study, turn),
                n_trials=study.budget - study.finished,
                timeout=turn.seconds,
            )
        except UnboundLocalError as error:
            # An interrupt that strikes while optuna closes a trial trips its own clean-up, which
            # hides the interrupt behind this error.  The next run closes the trial.
            interrupt = error.__context__
            if interrupt is None or isinstance(interrupt, Exception):
                raise
            raise interrupt from None
        except ValueError:
            if not study.overtaken:
                raise
            study.overtaken = False

    def _measure(self, study: Study, turn: Turn, trial: optuna.Trial) -> float:
        self._interrupts.check()
        try:
            row = study.ask(trial)
        except Surplus:
            study.optuna.stop()
            raise
        outcome = self._outcome(study, row)
        turn.measured += 1
        try:
            record = study.tell(trial, row, outcome)
        except UpdateFinishedTrialError:
            # Silent for too long: the trial was given to another worker, whose outcome counts.
            study.overtaken = True
            raise optuna.TrialPruned("measured by another worker") from None
        self._storage.flush(SIMULATED_FLUSH_S if self._plan.simulate else 0.0)
        if study.exhausted() or study.idle or turn.full:
            study.optuna.stop()
        self._report(trial=record)
        value = self._plan.objective.of(outcome)
        if value is None:
            # TPE ranks pruned trials behind all others, so it learns to avoid them.
            raise optuna.TrialPruned(outcome.reason)
        return value

    def _outcome(self, study: Study, row: int) -> Measurement:
        if self._bench is None:
            energy_mj = study.energy_mj
            return Measurement(
                status=Status.CORRECT,
                simulated=True,
                time_us=float(study.priced.time_us[row]),
                timing="simulated",
                energy=(
                    None
                    if energy_mj is None
                    else Energy(energy_mj=float(energy_mj[row]), source="simulated")
                ),
            )
        config, failures = study.priced.table.config(row), self._failures
        where = None if failures is None else self._bench.environment(self._candidates)
        if failures is not None and where is not None:
            known = failures.known(self._candidates.plan, config, where)
            if known is not None:
                return known
        outcome, environment = self._bench.measure(
            self._candidates, config, not study.attributes.has_environment
        )
        if environment is not None:
            study.attributes.store_environment(environment)
        failed = outcome.time_us is None and not outcome.doubtful
        if failures is not None and where is not None and failed:
            failures.remember(self._candidates.plan, config, where, outcome)
        return outcome

    def _compared(self, study: Study, bench: Bench, turn: Turn) -> bool:
        """Have near-ties timed in turns by one process; False while another one is at it."""
        # Calibration wants times of all sorts of configurations, not the winner among the best.
        if self._plan.strategy is Strategy.STRATIFIED:
            return True
        ties = len(study.outcomes.ties())
        if study.compared or ties < 2:
            return True
        if not turn.spares(min(ties, GROUP)):
            study.attributes.put_comparison_off(f"{ties} near-ties were not timed in turns: {LATE}")
            return True
        with self._storage.comparing(study.name) as mine:
            if mine:
                study.refresh()
                if not study.compared:
                    self._compare(study, bench, turn)
        return mine

    def _compare(self, study: Study, bench: Bench, turn: Turn) -> None:
        """Time in turns what is too close to call by samples taken minutes apart."""
        ties = study.outcomes.ties()
        configs = [study.priced.table.config(study.outcomes.trials[number][0]) for number in ties]
        timings, left = compare_all(
            partial(bench.compare, self._candidates),
            configs,
            lambda: not turn.over,
            self._plan.objective,
        )
        study.store_comparison(dict(zip(ties, timings, strict=False)), failed=left)

    def _report(self, stopped: str = "", trial: TrialRecord | None = None) -> None:
        study = self._study
        self._progress(
            Progress(
                study=self._candidates.plan,
                index=self._index,
                studies=len(self._plan.studies),
                finished=0 if study is None else study.finished,
                budget=0 if study is None else study.budget,
                trial=trial,
                best=None if study is None else study.outcomes.best,
                stopped=stopped,
                objective=self._plan.objective,
            )
        )


def search_all(
    searches: Sequence[Search], time_limit_s: float | None, idle_s: float, interrupts: Interrupts
) -> None:
    """Run every study; come back to those whose last trials run in other processes.

    Args:
        time_limit_s: shared fairly: what earlier studies left over is shared among the rest, and
            none begins another measurement that would end beyond its share, or times ties in turns
            when those behind it would have no time for one measurement each.
        idle_s: between two looks at what the others do.
    """
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    left = list(searches)
    while left:
        for place, search in enumerate(left):
            seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
            search.run(seconds, len(left) - place)
        left = [search for search in left if not search.done]
        if left:
            with interrupts.let_through():
                time.sleep(idle_s)
