"""What is known of a study's configurations: outcomes by trial, the best of them and its ties."""

import math
from collections.abc import Mapping

import numpy as np
import optuna
from numpy.typing import NDArray

from sim import PricedTable
from tuning.objective import Objective
from tuning.records import Measurement, TrialRecord
from tuning.strategies import History, Outcome
from tuning.timing import Timing

__all__ = ["StudyOutcomes"]

#: Trials within this share of the best are too close to call by samples taken minutes apart.
NEAR = 0.03


class StudyOutcomes:
    """Outcomes of a study's trials, told to its history, each beside what was predicted of it."""

    def __init__(
        self,
        history: History,
        priced: PricedTable,
        objective: Objective,
        energy_mj: NDArray[np.float64] | None,
    ) -> None:
        """None is known yet.

        Args:
            history: what the strategy goes by.
            priced: the study's legal configurations.
            objective: what the best one has the least of.
            energy_mj: predicted, by row; None where time is searched for.
        """
        self._history = history
        self._priced = priced
        self._objective = objective
        self._energy_mj = energy_mj
        self.trials: dict[int, tuple[int, Measurement]] = {}  #: by number: row, outcome
        self.illegal = 0  #: outcomes of configurations that are not legal any more
        self.best: TrialRecord | None = None
        self._stale: set[int] = set()  # numbers of trials whose outcome does not count any more
        self._told: set[int] = set()  # numbers of trials with an outcome

    def __contains__(self, number: int) -> bool:
        """True when the trial of this number has an outcome."""
        return number in self._told

    @property
    def finished(self) -> int:
        """Configurations with an outcome, those that are not legal any more included."""
        return self._history.finished + self.illegal

    def note(
        self, number: int, row: int | None, outcome: Measurement, *, stale: bool = False
    ) -> None:
        """Take in a trial's outcome.

        Args:
            row: of its configuration; None where that is not legal any more.
            stale: it does not count any more; it guides the search still, better than nothing.
        """
        self._told.add(number)
        if stale:
            self._stale.add(number)
        if row is None:
            self.illegal += 1
            return
        self._history.ask(row, number)
        value = self._objective.of(outcome)
        self._history.tell(row, Outcome(outcome.status, value))
        self.trials[number] = (row, outcome)
        best = None if self.best is None else self._objective.of(self.best.measurement)
        least = math.inf if best is None else best
        if value is not None and value < least and not stale:
            self.best = self._record(row, outcome)

    def store(self, trial: optuna.Trial, row: int, outcome: Measurement) -> TrialRecord:
        """Store the outcome of a trial that ran here, beside its prediction."""
        record = self._record(row, outcome)
        interval = [record.predicted_low_us, record.predicted_high_us]
        trial.set_user_attr("predicted_us", record.predicted_us)
        trial.set_user_attr("predicted_90_us", interval)
        if record.predicted_energy_mj is not None:
            trial.set_user_attr("predicted_energy_mj", record.predicted_energy_mj)
        trial.set_user_attr("measurement", outcome.to_dict())
        self.note(trial.number, row, outcome)
        return record

    def _record(self, row: int, outcome: Measurement) -> TrialRecord:
        return TrialRecord(
            config=self._priced.table.config(row),
            measurement=outcome,
            predicted_us=float(self._priced.time_us[row]),
            predicted_low_us=float(self._priced.low_us[row]),
            predicted_high_us=float(self._priced.high_us[row]),
            predicted_energy_mj=None if self._energy_mj is None else float(self._energy_mj[row]),
        )

    def ties(self) -> list[int]:
        """Numbers of the CORRECT trials as good as the best within 3 %, the best first."""
        values = {
            n: value
            for n, (_, m) in self.trials.items()
            if (value := self._objective.of(m)) is not None and n not in self._stale
        }
        if not values:
            return []
        limit = min(values.values()) * (1 + NEAR)
        return sorted((n for n, value in values.items() if value <= limit), key=values.__getitem__)

    def take_turns(self, timings: Mapping[int, Timing]) -> None:
        """Let the best be the one of the tied trials (by number) that won in turns."""
        winner = min(timings, key=lambda number: self._objective.of(timings[number]) or math.inf)
        row, outcome = self.trials[winner]
        entry = {**outcome.to_dict(), **timings[winner].in_turns()}
        self.best = self._record(row, Measurement.from_dict(entry))
