"""Predictions that know what compilers made of configurations before a study began."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna.storages import BaseStorage

from tiles.kernels.compile_facts import CompileFacts
from tuning.candidates import Candidates
from tuning.facts_cache import FactsCache
from tuning.plan import Plan

__all__ = ["price_with_facts"]

#: Study attribute: facts by row, as they were known when the study began.
FACTS = "compile_facts"


def price_with_facts(
    plan: Plan, candidates: Candidates, storage: BaseStorage, study_id: int
) -> Candidates:
    """Candidates priced with the compile facts that were known when the study began.

    They are kept with the study: who goes on with it ranks as it was begun, whatever has been
    compiled since.  A simulated sweep takes none: its numbers are the same on every machine.
    """
    if plan.simulate or candidates.priced is None:
        return candidates
    kernel, problem, table = candidates.kernel, candidates.plan.problem, candidates.priced.table
    stored: Mapping[str, Any] | None = storage.get_study_user_attrs(study_id).get(FACTS)
    if stored is None:
        found = FactsCache().known(kernel, problem, table, plan.gpu.limits)
        storage.set_study_user_attr(
            study_id, FACTS, {str(row): facts.to_dict() for row, facts in found.items()}
        )
    else:
        found = {int(row): CompileFacts.from_dict(facts) for row, facts in stored.items()}
    if not found:
        return candidates
    return replace(candidates, priced=candidates.price(problem, kernel, table, plan.gpu, found))
