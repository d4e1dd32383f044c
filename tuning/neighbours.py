"""Winners of neighbouring problems: the same work on another number of rows M."""

import math
from collections.abc import Mapping
from typing import Any

from optuna.storages import BaseStorage

from tuning.objective import Objective
from tuning.plan import Plan, StudyPlan
from tuning.validity import Validity

__all__ = ["neighbours", "winner", "winning_params"]


def neighbours(plan: Plan, study: StudyPlan) -> list[StudyPlan]:
    """The plan's studies of the same kernel that differ in M alone, nearest M first.

    Distance is the ratio of the two M; of two equally far the smaller M comes first.
    """
    own = study.problem.tokens
    found: list[tuple[float, int, StudyPlan]] = []
    for other in plan.studies:
        rows = other.problem.tokens
        if rows == own or other.kernel != study.kernel:
            continue
        if other.problem.with_tokens(own) == study.problem:
            found.append((abs(math.log(rows / own)), rows, other))
    return [other for *_, other in sorted(found, key=lambda entry: entry[:2])]


def winner(
    storage: BaseStorage, name: str, objective: Objective = Objective.TIME
) -> Mapping[str, Any] | None:
    """Parameters of a stored study's best correct trial that counts; None without one."""
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return None
    validity = Validity.of(storage.get_study_user_attrs(study_id))
    values: list[tuple[float, int, Mapping[str, Any]]] = []
    for trial in storage.get_all_trials(study_id, deepcopy=False):
        # Not the trial's state: one that was interrupted after its outcome was stored has failed.
        if "measurement" not in trial.user_attrs or validity.stale(trial):
            continue
        value = objective.of_stored(validity.outcome(trial))
        if value is not None:
            values.append((value, trial.number, trial.params))
    return min(values, key=lambda entry: entry[:2])[2] if values else None


def winning_params(plan: Plan, study: StudyPlan, storage: BaseStorage) -> list[dict[str, Any]]:
    """The neighbours' winners that are known so far, nearest first, each once."""
    found: list[dict[str, Any]] = []
    for other in neighbours(plan, study):
        params = winner(storage, plan.study_name(other), plan.objective)
        if params is not None and dict(params) not in found:
            found.append(dict(params))
    return found
