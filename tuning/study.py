"""One study: optuna's record of a (problem, kernel, GPU), resumed where it was left."""

import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import optuna
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import is_heartbeat_enabled  # optuna gives it no public name
from optuna.trial import FrozenTrial, TrialState

from tiles.kernels import TileConfig
from tuning.candidates import Candidates, describe
from tuning.neighbours import neighbours_rows
from tuning.objective import Objective
from tuning.plan import Plan, Strategy
from tuning.priced_facts import price_with_facts
from tuning.records import Measurement, TrialRecord
from tuning.rescue import fail_stale_trials
from tuning.sampler import LegalSampler
from tuning.strategies import History
from tuning.study_attributes import StudyAttributes
from tuning.study_outcomes import StudyOutcomes
from tuning.timing import Timing

__all__ = ["Repeat", "Study", "Surplus"]

#: Larger than any trial's number: the place of a row whose trial has no number yet.
_LAST = 2**62


class Surplus(optuna.TrialPruned):
    """A trial that began when nothing was left: other workers run the last configurations."""


class Repeat(optuna.TrialPruned):
    """A trial of a configuration that another worker runs or has measured."""


class Study:
    """The optuna study of one set of candidates, and what is known of its outcomes."""

    def __init__(
        self,
        plan: Plan,
        candidates: Candidates,
        storage: BaseStorage,
        *,
        batch: int = 1,
        announce: Callable[[list[TileConfig]], None] | None = None,
        alone: bool = True,
    ) -> None:
        """Create the study or find it; finish what was measured, queue what was cut short.

        Args:
            candidates: with at least one legal configuration.
            storage: one that several processes share has ``choosing`` (a lock on choosing a
                configuration) and heartbeats, which tell whose trials were cut short.
            batch, announce: proposals drawn at a time, and who is told of them.
            alone: of a storage without heartbeats: no other process works on the study, so a
                running trial was cut short.
        """
        self.plan = plan
        self.name = plan.study_name(candidates.plan)
        self._storage = storage
        with self._choosing():
            describe(plan, candidates, storage)
            study_id = storage.get_study_id_from_name(self.name)
            candidates = price_with_facts(plan, candidates, storage, study_id)
            assert candidates.priced is not None
            self.candidates = candidates
            self.priced = candidates.priced
            legal = candidates.legal_table(plan)
            #: Predicted, by row; None where time is searched for.
            self.energy_mj = None if plan.objective is Objective.TIME else legal.predicted
            neighbours = neighbours_rows(plan, candidates.plan, storage, study_id, legal)
        self._settled = 0  # trials below this number have ended and were looked at
        self._queued: set[int] = set()  # rows of trials that wait
        self._running: dict[int, int | None] = {}  # other processes' trials: number, row
        self._mine = -1  # number of the trial that runs here
        self._undrawn = 0  # trials begun before that one, whose rows are not known yet
        self.overtaken = False  #: a trial of this process went stale and was given to another
        # A study of the same plan draws the same numbers, whatever else the plan holds.
        seed = (plan.seed + zlib.crc32(self.name.encode())) % 2**32
        self.strategy = candidates.strategy(plan, seed, neighbours, legal)
        self.legal = self.strategy.legal
        self.history = History(len(self.legal))
        self.outcomes = StudyOutcomes(self.history, self.priced, plan.objective, self.energy_mj)
        tell = None if announce is None else lambda rows: announce(candidates.configs(rows))
        sampler = LegalSampler(self.strategy, self._look, batch=batch, announce=tell)
        self.optuna = optuna.load_study(study_name=self.name, storage=storage, sampler=sampler)
        self.attributes = StudyAttributes(self.optuna)
        self._beats = is_heartbeat_enabled(storage)
        if self._beats:
            fail_stale_trials(self.optuna)
        with self._choosing():
            self._resume(alone and not self._beats)
        coming = [row for row in self.strategy.openers if self.history.untried[row]]
        if tell is not None and neighbours and coming:
            tell(coming)

    @property
    def budget(self) -> int:
        """Finished trials after which the study ends."""
        return self.candidates.budget(self.plan)

    @property
    def finished(self) -> int:
        """Configurations with an outcome, those that are not legal any more included."""
        return self.outcomes.finished

    def _resume(self, alone: bool) -> None:
        live: set[int | None] = set()
        for trial in self.optuna.get_trials(deepcopy=False):
            if "measurement" in trial.user_attrs:
                if not trial.state.is_finished() and alone:
                    # Killed between storing the outcome and closing the trial.
                    value = self.plan.objective.of_stored(trial.user_attrs["measurement"])
                    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
                    self.optuna.tell(trial.number, value, state)
            elif trial.state is TrialState.RUNNING and alone:
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            elif trial.state is TrialState.WAITING and self._row(trial) is None:
                # It was legal for an earlier version.
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            elif not trial.state.is_finished():
                live.add(self._row(trial))
        self._requeue_lost()

    def _choosing(self) -> AbstractContextManager[None]:
        """While this is open no other process chooses a configuration of the study."""
        lock = getattr(self._storage, "choosing", None)
        return nullcontext() if lock is None else lock(self.name)

    def _requeue_lost(self) -> None:
        """Queue the configurations that were begun, have no outcome, and that nobody runs."""
        self.refresh()
        live = {row for row, _ in self.history.told} | self._queued | set(self._running.values())
        for row in self.history.rows:
            if row not in live:
                self._enqueue(row)
        self._queue_ahead()

    def _queue_ahead(self) -> None:
        """Keep the queue of a fleet's exhaustive study filled: its workers only take from it."""
        ahead: int = getattr(self._storage, "queue_ahead", 0)
        if self.plan.strategy is Strategy.EXHAUSTIVE and len(self._queued) < (ahead + 1) // 2:
            for row in self.strategy.propose(self.history, ahead - len(self._queued)):
                self._enqueue(row)

    def _enqueue(self, row: int) -> None:
        self.optuna.enqueue_trial(self.legal.params(row))
        self._queued.add(row)
        self.history.ask(row, _LAST)

    def look_around(self) -> str:
        """See what other processes did, queue what they lost: :meth:`exhausted` after that."""
        if self._beats:
            fail_stale_trials(self.optuna)
        with self._choosing():
            self._requeue_lost()
        return self.exhausted()

    def _row(self, trial: FrozenTrial) -> int | None:
        return self.legal.row(trial.system_attrs.get("fixed_params", trial.params))

    def refresh(self, before: int | None = None) -> int:
        """Take in what the storage holds, other processes' trials included.

        Args:
            before: the number of a trial that is about to be drawn.

        Returns:
            How many running trials with smaller numbers have no row yet.
        """
        undrawn = 0
        settled = True
        validity = self.attributes.validity
        self._queued.clear()
        self._running.clear()
        for trial in self.optuna.get_trials(deepcopy=False)[self._settled :]:
            settled = settled and trial.state.is_finished()
            self._settled += settled
            row = self._row(trial)
            if trial.number not in self.outcomes and "measurement" in trial.user_attrs:
                outcome = Measurement.from_dict(validity.measured(trial))
                stale = bool(validity.stale(trial) or validity.outpaced_there(trial))
                self.outcomes.note(trial.number, row, outcome, stale=stale)
            elif trial.number in self.outcomes:
                continue
            elif trial.state is TrialState.RUNNING and trial.number != self._mine:
                self._running[trial.number] = row
                if row is not None:
                    self.history.ask(row, trial.number)
                elif before is not None:
                    undrawn += trial.number < before
            elif row is not None:
                # A repeat was given up; the row keeps the place of the trial that measures it.
                if trial.state is not TrialState.PRUNED:
                    self.history.ask(row, trial.number)
                if trial.state is TrialState.WAITING:
                    self._queued.add(row)
        return undrawn

    def _look(self, trial: FrozenTrial) -> tuple[History, int]:
        return self.history, self._undrawn

    def ask(self, trial: optuna.Trial) -> int:
        """Draw a trial's parameters: the row that it measures.

        Raises:
            Surplus: nothing is left for it but what waits or was lost.
            Repeat: another process measures the queued configuration, or has measured it.
        """
        self._mine = trial.number
        with self._choosing():
            self._undrawn = self.refresh(trial.number)
            if trial._fixed_params:
                queued = self.legal.row(trial._fixed_params)
                if queued is None or self._taken(queued):
                    raise Repeat("another worker measures this configuration")
            elif self._all_begun:
                raise Surplus("other workers run the last configurations")
            self._queue_ahead()
            for name, distribution in self.legal.space.items():
                trial._suggest(name, distribution)
        row = self.legal.row(trial.params)
        assert row is not None, "sampled an illegal configuration"
        self.history.ask(row, trial.number)
        self._queued.discard(row)
        return row

    def _taken(self, row: int) -> bool:
        """True when the row has an outcome, or another process runs it."""
        return row in self._running.values() or self.history.outcome(row) is not None

    @property
    def _all_begun(self) -> bool:
        """True when every configuration that is needed has an outcome, runs, waits or was lost.

        What a dead worker lost waits in the queue only after somebody has looked around: drawing
        another one in its place would exceed the budget.
        """
        return (
            len(self.history) + self.outcomes.illegal >= self.budget
            or not self.history.untried.any()
        )

    @property
    def idle(self) -> bool:
        """True when nothing waits and what is needed runs already, in other processes."""
        if self._queued:
            return False
        begun = self.finished + len(self._running)
        return begun >= self.budget or not self.history.untried.any()

    def tell(self, trial: optuna.Trial, row: int, outcome: Measurement) -> TrialRecord:
        """Store an outcome beside its prediction."""
        return self.outcomes.store(trial, row, outcome)

    def exhausted(self) -> str:
        """Why no further trial is needed, or "" while one is."""
        if self.finished >= self.budget:
            return f"{self.finished} of {self.budget} measurements done"
        if self._queued or (self._running and not self.history.untried.any()):
            return ""  # what runs elsewhere may yet be lost
        return self.strategy.stop(self.history)

    @property
    def compared(self) -> bool:
        """True when the ties among the present trials were timed in turns."""
        return self.attributes.compared(self.finished)

    def store_comparison(self, timings: Mapping[int, Timing], failed: str = "") -> None:
        """Replace the samples of tied trials (by number) with those taken in turns.

        ``failed`` says why some or all have none: they then rest on samples taken apart.
        """
        self.attributes.store_comparison(timings, self.finished, failed)
        if timings:
            self.outcomes.take_turns(timings)
