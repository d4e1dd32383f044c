"""A study whose every configuration was measured, as something that strategies search again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.energy import energy_interval
from tiles.kernels import ConfigTable
from tiles.problems import Problem
from tuning.objective import Objective
from tuning.plan import Strategy
from tuning.records import StudyRecord, TrialRecord
from tuning.strategies import STRATEGIES, History, LegalTable, Outcome, Proposals

__all__ = ["ReplaySpace", "Walk"]

#: Rows drawn together, as a sweep does whose compilers work ahead of the GPU.
BATCH = 8
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySpace:
    """A measured study as a simulator: what each of its configurations is known to do."""

    problem: Problem
    kernel: str
    simulated: bool  #: the times are the cost model's: strategies that follow it cannot lose
    legal_size: int  #: of the whole space; more than ``len(outcomes)`` for a sample of it
    legal: LegalTable
    outcomes: tuple[Outcome, ...]  #: by row
    objective: Objective = Objective.TIME  #: what values are of

    @classmethod
    def of(cls, study: StudyRecord, *, sample: bool = False) -> "ReplaySpace":
        """Take a study's trials for its whole space.

        Args:
            sample: accept one that measured a part of its space, and replay within that part.

        Raises:
            ValueError: configurations were left out, some results are stale, or none is correct.
        """
        trials = list({trial.config: trial for trial in study.trials}.values())
        name = f"{study.problem} with {study.kernel}"
        # What was measured again was chosen for being fast: the rest is no fair sample either.
        if stale := [trial.stale for trial in trials if trial.stale]:
            raise ValueError(
                f"{name}: {len(stale)} of {len(trials)} results are stale ({stale[0]}), and "
                "old and new times do not mix: sweep it anew into another output"
            )
        if len(trials) < study.legal_size and not sample:
            raise ValueError(
                f"{name}: {len(trials)} of {study.legal_size} legal configurations were measured: "
                "finish a sweep with strategy: exhaustive, or name another problem"
            )
        objective = study.objective

        def value(trial: TrialRecord) -> float | None:
            found = objective.of(trial.measurement)
            return None if found is None else trial.beside_turns(found)

        if all(objective.of(trial.measurement) is None for trial in trials):
            raise ValueError(f"{name}: no configuration is correct: there is no optimum to find")
        # By their fields: the order of measuring may be the model's, which is not to be had here.
        trials.sort(key=lambda trial: tuple(trial.config.to_dict().values()))
        table = ConfigTable.of([trial.config for trial in trials])
        return cls(
            problem=study.problem,
            kernel=study.kernel,
            simulated=study.simulated,
            legal_size=study.legal_size,
            legal=LegalTable(table, *_predicted(trials, objective, name)),
            outcomes=tuple(Outcome(trial.measurement.status, value(trial)) for trial in trials),
            objective=objective,
        )

    @property
    def best(self) -> float:
        """The optimum: the least time of a correct configuration, or the least energy."""
        return min(outcome.value for outcome in self.outcomes if outcome.value is not None)

    def walk(self, strategy: Strategy, seed: int, budget: int, batch: int = BATCH) -> "Walk":
        """Let a strategy search until it stops or its budget is spent."""
        chooser = STRATEGIES[strategy](self.legal, seed=seed, budget=budget)
        proposals = Proposals(chooser, batch)
        history = History(len(self.outcomes))
        fractions: list[float] = []
        best, optimum = 0.0, self.best
        while not chooser.stop(history):
            row = proposals.next(history)
            outcome = self.outcomes[row]
            history.ask(row, len(fractions))
            history.tell(row, outcome)
            if outcome.value is not None:
                best = max(best, optimum / outcome.value)
            fractions.append(best)
        return Walk(
            rows=tuple(history.rows), fractions=tuple(fractions), stopped=chooser.stop(history)
        )


def _predicted(
    trials: Sequence[TrialRecord], objective: Objective, name: str
) -> tuple[F64, F64, F64]:
    """What was predicted of trials, with 90 % intervals, in the objective's unit."""
    time_us, low_us, high_us = (
        np.array([getattr(trial, field) for trial in trials], dtype=np.float64)
        for field in ("predicted_us", "predicted_low_us", "predicted_high_us")
    )
    if objective is Objective.TIME:
        return time_us, low_us, high_us
    if any(trial.predicted_energy_mj is None for trial in trials):
        raise ValueError(f"{name}: energies were not predicted: sweep it anew into another output")
    energy_mj = np.array([trial.predicted_energy_mj for trial in trials], dtype=np.float64)
    return energy_mj, *energy_interval(energy_mj, time_us, low_us, high_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One strategy with one seed."""

    rows: tuple[int, ...]  #: in the order measured
    fractions: tuple[float, ...]  #: optimum over the best so far; 0 before one is correct
    stopped: str  #: why it ended
