"""Winners of neighbouring problems: the same work on another number of rows M."""

import math
from collections.abc import Mapping
from typing import Any

from optuna.storages import BaseStorage

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


def winner(storage: BaseStorage, name: str) -> Mapping[str, Any] | None:
    """Parameters of a stored study's fastest correct trial that counts; None without one."""
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return None
    validity = Validity.of(storage.get_study_user_attrs(study_id))
    times_us: list[tuple[float, int, Mapping[str, Any]]] = []
    for trial in storage.get_all_trials(study_id, deepcopy=False):
        # Not the trial's state: one that was interrupted after its outcome was stored has failed.
        if "measurement" not in trial.user_attrs or validity.stale(trial):
            continue
        time_us = validity.outcome(trial)["time_us"]
        if time_us is not None:
            times_us.append((time_us, trial.number, trial.params))
    return min(times_us, key=lambda entry: entry[:2])[2] if times_us else None


def winning_params(plan: Plan, study: StudyPlan, storage: BaseStorage) -> list[dict[str, Any]]:
    """The neighbours' winners that are known so far, nearest first, each once."""
    found: list[dict[str, Any]] = []
    for other in neighbours(plan, study):
        params = winner(storage, plan.study_name(other))
        if params is not None and dict(params) not in found:
            found.append(dict(params))
    return found
