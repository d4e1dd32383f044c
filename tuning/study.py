"""One study: optuna's record of a (problem, kernel, GPU), resumed where it was left."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sim.prediction import PricedTable
from tiles.kernels import Kernel, LegalSpace, TileConfig
from tuning.neighbours import winning_params
from tuning.plan import Plan, Strategy, StudyPlan
from tuning.records import Environment, Measurement, TrialRecord
from tuning.sampler import LegalSampler
from tuning.strategies import STRATEGIES, History, LegalTable, Outcome, SearchStrategy
from tuning.timing import Timing

__all__ = ["Candidates", "Study", "describe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """A study's legal configurations with their predictions, made before anything is measured."""

    plan: StudyPlan
    kernel: Kernel
    space: LegalSpace
    priced: PricedTable | None  #: of the accepted configurations; None when there are none
    path: str  #: "native" or "emulated"

    @property
    def legal_size(self) -> int:
        """Number of legal configurations."""
        return 0 if self.priced is None else len(self.priced)

    def budget(self, plan: Plan) -> int:
        """Finished trials after which the study ends."""
        if plan.strategy is Strategy.EXHAUSTIVE:
            return self.legal_size
        return min(plan.max_measurements, self.legal_size)

    def strategy(self, plan: Plan, seed: int = 0, neighbours: Sequence[int] = ()) -> SearchStrategy:
        """The plan's strategy on these configurations; at least one is legal."""
        assert self.priced is not None
        return STRATEGIES[plan.strategy](
            LegalTable.of(self.priced),
            seed=seed,
            budget=plan.max_measurements,
            neighbours=neighbours,
            # A simulated sweep has no uncertainty that a stopping rule could weigh.
            early_stop=not plan.simulate,
        )

    def seeds(self, plan: Plan) -> list[int]:
        """Rows that are measured whatever comes of them, as far as they are known by now."""
        return [] if self.priced is None else self.strategy(plan).openers

    def configs(self, rows: list[int]) -> list[TileConfig]:
        """Legal configurations by row."""
        if self.priced is None:
            return []
        return [self.priced.table.config(row) for row in rows]


def describe(plan: Plan, candidates: Candidates, storage: BaseStorage) -> str:
    """Create the optuna study, or find it, and say what it is about: its name."""
    description: Mapping[str, Any] = {
        "kernel": candidates.plan.kernel,
        "gpu": plan.gpu.name,
        "path": candidates.path,
        "simulated": plan.simulate,
        "space_size": len(candidates.space.table),
        "legal_size": candidates.legal_size,
        "rejected_by_rule": candidates.space.rejected_by_rule,
        "problem": str(candidates.plan.problem),  # last: with it the description is whole
    }
    name = plan.study_name(candidates.plan)
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        study_id = storage.create_new_study([StudyDirection.MINIMIZE], name)
    stored = storage.get_study_user_attrs(study_id)
    for key, value in description.items():
        if stored.get(key) != value:
            storage.set_study_user_attr(study_id, key, value)
    return name


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
            batch, announce: proposals drawn at a time, and who is told of them.
            alone: no other process works on the study, so a running trial was cut short.
        """
        assert candidates.priced is not None
        self.plan = plan
        self.candidates = candidates
        self.priced = candidates.priced
        self.trials: dict[int, tuple[int, Measurement]] = {}  #: by number: row, outcome
        self._illegal = 0  # outcomes of configurations that are not legal any more
        self.best: TrialRecord | None = None
        self._storage = storage
        self._told: set[int] = set()  # numbers of trials with an outcome
        self._settled = 0  # trials below this number have ended and were looked at
        self._queued: set[int] = set()  # rows of trials that wait
        name = describe(plan, candidates, storage)
        # A study of the same plan draws the same numbers, whatever else the plan holds.
        seed = (plan.seed + zlib.crc32(name.encode())) % 2**32
        neighbours = self._neighbours(name)
        self.strategy = candidates.strategy(plan, seed, neighbours)
        self.legal = self.strategy.legal
        self.history = History(len(self.legal))
        tell = None if announce is None else lambda rows: announce(candidates.configs(rows))
        sampler = LegalSampler(self.strategy, self._look, batch=batch, announce=tell)
        self.optuna = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        self._resume(alone)
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
        return self.history.finished + self._illegal

    def _neighbours(self, name: str) -> list[int]:
        """Rows that won at other M when this study began; kept, so that resuming finds the same."""
        study_id = self._storage.get_study_id_from_name(name)
        stored = self._storage.get_study_user_attrs(study_id).get("neighbours")
        if stored is None and self._storage.get_n_trials(study_id) == 0:
            stored = winning_params(self.plan, self.candidates.plan, self._storage)
            if stored:
                self._storage.set_study_user_attr(study_id, "neighbours", stored)
        if not stored:
            return []
        table = LegalTable.of(self.priced)
        rows = [table.row(params) for params in stored]
        return [row for row in rows if row is not None]

    def _resume(self, alone: bool) -> None:
        live: set[int | None] = set()
        for trial in self.optuna.get_trials(deepcopy=False):
            if "measurement" in trial.user_attrs:
                if not trial.state.is_finished() and alone:
                    # Killed between storing the outcome and closing the trial.
                    time_us = trial.user_attrs["measurement"]["time_us"]
                    state = TrialState.PRUNED if time_us is None else TrialState.COMPLETE
                    self.optuna.tell(trial.number, time_us, state)
            elif trial.state is TrialState.RUNNING and alone:
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            elif trial.state is TrialState.WAITING and self._row(trial) is None:
                # It was legal for an earlier version.
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            elif not trial.state.is_finished():
                live.add(self._row(trial))
        self.refresh()
        told = {row for row, _ in self.history.told}
        for row in self.history.rows:
            if row not in told and row not in live:
                self.optuna.enqueue_trial(self.legal.params(row))
                self._queued.add(row)

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
        self._queued.clear()
        for trial in self.optuna.get_trials(deepcopy=False)[self._settled :]:
            settled = settled and trial.state.is_finished()
            self._settled += settled
            row = self._row(trial)
            if trial.number not in self._told and "measurement" in trial.user_attrs:
                outcome = Measurement.from_dict(trial.user_attrs["measurement"])
                self._note(trial.number, row, outcome)
            elif row is not None:
                self.history.ask(row, trial.number)
                if trial.state is TrialState.WAITING:
                    self._queued.add(row)
            elif trial.state is TrialState.RUNNING and before is not None:
                undrawn += trial.number < before
        return undrawn

    def _look(self, trial: FrozenTrial) -> tuple[History, int]:
        undrawn = self.refresh(trial.number)
        return self.history, undrawn

    def ask(self, trial: optuna.Trial) -> int:
        """Draw a trial's parameters: the row that it measures."""
        for name, distribution in self.legal.space.items():
            trial._suggest(name, distribution)
        row = self.legal.row(trial.params)
        assert row is not None, "sampled an illegal configuration"
        self.history.ask(row, trial.number)
        self._queued.discard(row)
        return row

    def tell(self, trial: optuna.Trial, row: int, outcome: Measurement) -> TrialRecord:
        """Store an outcome beside its prediction."""
        priced = self.priced
        predicted, low, high = (
            float(column[row]) for column in (priced.time_us, priced.low_us, priced.high_us)
        )
        trial.set_user_attr("predicted_us", predicted)
        trial.set_user_attr("predicted_90_us", [low, high])
        trial.set_user_attr("measurement", outcome.to_dict())
        self._note(trial.number, row, outcome)
        record = self._record(row, outcome)
        return record

    def _record(self, row: int, outcome: Measurement) -> TrialRecord:
        return TrialRecord(
            config=self.priced.table.config(row),
            measurement=outcome,
            predicted_us=float(self.priced.time_us[row]),
            predicted_low_us=float(self.priced.low_us[row]),
            predicted_high_us=float(self.priced.high_us[row]),
        )

    def _note(self, number: int, row: int | None, outcome: Measurement) -> None:
        self._told.add(number)
        if row is None:
            self._illegal += 1
            return
        self.history.ask(row, number)
        self.history.tell(row, Outcome(outcome.status, outcome.time_us))
        self.trials[number] = (row, outcome)
        best_us = math.inf if self.best is None else self.best.measurement.time_us or math.inf
        if outcome.time_us is not None and outcome.time_us < best_us:
            self.best = self._record(row, outcome)

    def exhausted(self) -> str:
        """Why no further trial is needed, or "" while one is."""
        if self.finished >= self.budget:
            return f"{self.finished} of {self.budget} measurements done"
        return "" if self._queued else self.strategy.stop(self.history)

    def ties(self, within: float = 0.03, most: int = 12) -> list[int]:
        """Numbers of the CORRECT trials as fast as the best within a share, fastest first."""
        times = {n: m.time_us for n, (_, m) in self.trials.items() if m.time_us is not None}
        if not times:
            return []
        limit = min(times.values()) * (1 + within)
        close = sorted((n for n, t in times.items() if t <= limit), key=times.__getitem__)
        return close[:most]

    @property
    def compared(self) -> bool:
        """True when the ties among the present trials were timed in turns."""
        stored = self.optuna.user_attrs.get("compared")
        return stored is not None and stored["finished"] == self.finished

    def store_comparison(self, timings: Mapping[int, Timing], failed: str = "") -> None:
        """Replace the samples of tied trials (by number) with those taken in turns.

        ``failed`` says why there are none: the winner then rests on samples taken apart.
        """
        entries = {
            str(number): {
                "time_us": t.time_us,
                "samples_us": list(t.samples_us),
                "timing": f"{t.timing}-interleaved",
            }
            for number, t in timings.items()
        }
        self.optuna.set_user_attr(
            "compared", {"finished": self.finished, "timings": entries, "failed": failed}
        )
        if timings:
            winner = min(timings, key=lambda number: timings[number].time_us)
            row, outcome = self.trials[winner]
            entry = {**outcome.to_dict(), **entries[str(winner)]}
            self.best = self._record(row, Measurement.from_dict(entry))

    @property
    def has_environment(self) -> bool:
        """True when it is recorded where this study was measured."""
        return "environment" in self.optuna.user_attrs

    def store_environment(self, environment: Environment) -> None:
        """Record where this study was measured."""
        self.optuna.set_user_attr("environment", environment.to_dict())

    def store_end(self, stopped: str) -> None:
        """Record why the search ended."""
        if self.optuna.user_attrs.get("stopped") != stopped:
            self.optuna.set_user_attr("stopped", stopped)
