"""One study: optuna's record of a (problem, kernel, GPU), resumed where it was left."""

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from sim.prediction import PricedTable
from tiles.kernels import Kernel, LegalSpace, TileConfig
from tuning.plan import Plan, Strategy, StudyPlan
from tuning.records import Environment, Measurement, TrialRecord
from tuning.sampler import LegalSampler, LegalTable, diverse_best
from tuning.stopping import improvement_chance
from tuning.timing import Timing

__all__ = ["Candidates", "Study", "describe"]

#: Of a hybrid search's measurements, the share that the model's ranking decides.
SEED_SHARE = 0.5
#: Correct measurements before the stopping rule is asked.
ENOUGH = 8
#: The search stops when an improvement by 1 % is less likely than this.
UNLIKELY = 0.05


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

    def seeds(self, plan: Plan) -> list[int]:
        """Rows that the model alone chooses before the search begins, best first."""
        if self.priced is None or plan.strategy is not Strategy.HYBRID:
            return []
        count = math.ceil(SEED_SHARE * self.budget(plan))
        return diverse_best(self.priced.table, self.priced.ranking(), count)

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
    ) -> None:
        """Create the study or find it; finish what was measured, queue what was cut short.

        Args:
            candidates: with at least one legal configuration.
            batch, announce: proposals drawn at a time, and who is told of them.
        """
        assert candidates.priced is not None
        self.plan = plan
        self.candidates = candidates
        self.priced = candidates.priced
        advised = plan.strategy not in (Strategy.TPE, Strategy.RANDOM)
        self.legal = LegalTable(
            self.priced.table, self.priced.time_us if advised else np.zeros(len(self.priced))
        )
        self.trials: dict[int, tuple[int, Measurement]] = {}  #: by number: row, outcome
        self.finished = 0  #: trials with an outcome, those that are not legal any more included
        self.best: TrialRecord | None = None
        self._storage = storage
        name = describe(plan, candidates, storage)
        # A study of the same plan draws the same numbers, whatever else the plan holds.
        seed = (plan.seed + zlib.crc32(name.encode())) % 2**32
        sampler = LegalSampler(
            self.legal,
            plan.strategy,
            seed,
            batch=batch,
            announce=None if announce is None else lambda rows: announce(candidates.configs(rows)),
        )
        self.optuna = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        self._resume()
        for row in candidates.seeds(plan):
            if self.finished + len(self._queued) < self.budget:
                self._enqueue(row)

    @property
    def budget(self) -> int:
        """Finished trials after which the study ends."""
        return self.candidates.budget(self.plan)

    def _resume(self) -> None:
        self._queued: set[int] = set()  # rows of trials that wait
        cut_short: list[int] = []
        for trial in self.optuna.get_trials(deepcopy=False):
            row = self.legal.row(trial.system_attrs.get("fixed_params", trial.params))
            if "measurement" in trial.user_attrs:
                outcome = Measurement.from_dict(trial.user_attrs["measurement"])
                if not trial.state.is_finished():
                    # Killed between storing the outcome and closing the trial.
                    state = TrialState.PRUNED if outcome.time_us is None else TrialState.COMPLETE
                    self.optuna.tell(trial.number, outcome.time_us, state)
                self._note(trial.number, row, outcome)
                continue
            if trial.state is TrialState.WAITING and row is not None:
                self.legal.untried[row] = False
                self._queued.add(row)
                continue
            if not trial.state.is_finished():
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            if row is not None:
                cut_short.append(row)
        for row in cut_short:
            self._enqueue(row)

    def _enqueue(self, row: int) -> None:
        if self.legal.untried[row]:
            self.legal.untried[row] = False
            self.optuna.enqueue_trial(self.legal.params(row))
            self._queued.add(row)

    def ask(self, trial: optuna.Trial) -> int:
        """Draw a trial's parameters: the row that it measures."""
        for name, distribution in self.legal.space.items():
            trial._suggest(name, distribution)
        row = self.legal.row(trial.params)
        assert row is not None, "sampled an illegal configuration"
        self.legal.untried[row] = False
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
        self.finished += 1
        if row is None:
            return
        self.legal.untried[row] = False
        self.trials[number] = (row, outcome)
        best_us = math.inf if self.best is None else self.best.measurement.time_us or math.inf
        if outcome.time_us is not None and outcome.time_us < best_us:
            self.best = self._record(row, outcome)

    def exhausted(self) -> str:
        """Why no further trial is needed, or "" while one is."""
        if self.finished >= self.budget:
            return f"{self.finished} of {self.budget} measurements done"
        if self._queued:
            return ""
        if not self.legal.untried.any():
            return "every legal configuration was tried"
        if self.plan.strategy is not Strategy.HYBRID or self.plan.simulate:
            return ""  # a simulated sweep has no uncertainty that a rule could weigh
        correct = [(row, m.time_us) for row, m in self.trials.values() if m.time_us is not None]
        if len(correct) < ENOUGH:
            return ""
        rows, times = zip(*correct, strict=True)
        chance = improvement_chance(
            self.priced.time_us,
            self.priced.low_us,
            self.priced.high_us,
            self.legal.untried,
            np.array(rows),
            np.array(times),
        )
        if chance < UNLIKELY:
            return f"an improvement by 1 % has a chance of {chance:.3f}"
        return ""

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
