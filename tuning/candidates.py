"""What a study may measure: its legal configurations with their predictions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import StudyDirection

import sim
from sim.calibration import Calibration
from sim.energy import priced_energy
from sim.prediction import PricedTable
from tiles.kernels import Kernel, LegalSpace, TileConfig
from tiles.problems import Problem
from tuning.objective import Objective
from tuning.plan import Plan, Strategy, StudyPlan
from tuning.strategies import STRATEGIES, LegalTable, SearchStrategy

__all__ = ["Candidates", "Pricing", "describe", "pricing"]

#: Like :func:`sim.price`.
Pricing = Callable[..., PricedTable]


def pricing(problem: Problem, kernel: Kernel, calibration: Calibration | None = None) -> Pricing:
    """The cost model, or the roofline where it cannot price the problem with that family."""
    if sim.unpriced(problem, kernel) is not None:
        return sim.roofline
    return sim.price if calibration is None else calibration.price


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """A study's legal configurations with their predictions, made before anything is measured."""

    plan: StudyPlan
    kernel: Kernel
    space: LegalSpace
    #: Of the accepted configurations, or of those that are asked for; None when there are none.
    priced: PricedTable | None
    path: str  #: "native" or "emulated"
    price: Pricing  #: what made ``priced``

    @property
    def legal_size(self) -> int:
        """Number of legal configurations, whether they are asked for or not."""
        return int((self.space.first_broken == len(self.space.rules)).sum())

    def budget(self, plan: Plan) -> int:
        """Finished trials after which the study ends."""
        asked = 0 if self.priced is None else len(self.priced)
        return asked if plan.strategy is Strategy.EXHAUSTIVE else min(plan.max_measurements, asked)

    def strategy(
        self,
        plan: Plan,
        seed: int = 0,
        neighbours: Sequence[int] = (),
        legal: LegalTable | None = None,
    ) -> SearchStrategy:
        """The plan's strategy on these configurations; at least one is legal.

        Args:
            legal: what :meth:`legal_table` makes, where it was made before.
        """
        return STRATEGIES[plan.strategy](
            self.legal_table(plan) if legal is None else legal,
            seed=seed,
            budget=plan.max_measurements,
            neighbours=neighbours,
            # A simulated sweep has no uncertainty that a stopping rule could weigh.
            early_stop=not plan.simulate,
        )

    def legal_table(self, plan: Plan) -> LegalTable:
        """The configurations by what the plan searches for; at least one is legal."""
        assert self.priced is not None
        if plan.objective is Objective.TIME:
            return LegalTable.of(self.priced)
        energy = priced_energy(self.priced, plan.gpu)
        return LegalTable(self.priced.table, energy.energy_mj, energy.low_mj, energy.high_mj)

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
