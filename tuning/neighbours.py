"""Winners of neighbouring problems: the same kernel, formats and output on other extents."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from optuna.storages import BaseStorage

from tiles.problems import Problem
from tuning.objective import Objective
from tuning.plan import Plan, StudyPlan
from tuning.strategies import LegalTable
from tuning.validity import Validity

__all__ = ["KEPT", "distance", "neighbours", "neighbours_rows", "winner", "winning_params"]

#: Neighbours' winners that a study tries.
KEPT = 2


def distance(one: Problem, other: Problem) -> float:
    """How unlike two problems' extents are: the logs of their ratios, added up; 0 where equal.

    Raises:
        ValueError: problems of different kinds have different extents.
    """
    if one.kind != other.kind:
        raise ValueError(f"{one} and {other} are of different kinds: compare problems of one kind")
    logs = (abs(math.log(a / b)) for a, b in zip(one.shape, other.shape, strict=True))
    return round(sum(logs), 9)  # half and twice an extent are equally far, to the last bit


def neighbours(plan: Plan, study: StudyPlan) -> list[StudyPlan]:
    """The plan's other studies of the same kernel, kind, formats and output, nearest first.

    Distance is :func:`distance`; of equally far ones that with the smaller extents comes first.
    """
    own = study.problem
    found = [
        other
        for other in plan.studies
        if other.kernel == study.kernel
        and (other.problem.kind, other.problem.formats) == (own.kind, own.formats)
        and other.problem.shape != own.shape
    ]
    return sorted(found, key=lambda one: (distance(own, one.problem), one.problem.shape))


def winner(
    storage: BaseStorage, name: str, objective: Objective = Objective.TIME
) -> Mapping[str, Any] | None:
    """Parameters of a stored study's best correct trial that counts; None without one."""
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return None
    validity = Validity.of(storage.get_study_user_attrs(study_id))
    trials = storage.get_all_trials(study_id, deepcopy=False)
    outpaced = validity.outpaced(trials, objective)
    values: list[tuple[float, int, Mapping[str, Any]]] = []
    for trial in trials:
        # Not the trial's state: one that was interrupted after its outcome was stored has failed.
        if "measurement" not in trial.user_attrs:
            continue
        if validity.stale(trial) or trial.number in outpaced:
            continue
        value = objective.of_stored(validity.outcome(trial))
        if value is not None:
            values.append((value, trial.number, trial.params))
    return min(values, key=lambda entry: entry[:2])[2] if values else None


def winning_params(
    plan: Plan,
    study: StudyPlan,
    storage: BaseStorage,
    legal: Callable[[Mapping[str, Any]], bool] = lambda _: True,
) -> list[dict[str, Any]]:
    """The nearest neighbours' winners that are known so far, each once, :data:`KEPT` at most.

    Args:
        legal: whether a configuration is one of the study's own; others are passed over.
    """
    found: list[dict[str, Any]] = []
    for other in neighbours(plan, study):
        if len(found) == KEPT:
            break
        params = winner(storage, plan.study_name(other), plan.objective)
        if params is not None and dict(params) not in found and legal(params):
            found.append(dict(params))
    return found


def neighbours_rows(
    plan: Plan, study: StudyPlan, storage: BaseStorage, study_id: int, table: LegalTable
) -> list[int]:
    """Rows that won neighbouring problems when a study began.

    They are kept with the study, so that resuming finds the same.
    """
    stored = storage.get_study_user_attrs(study_id).get("neighbours")
    if stored is None and storage.get_n_trials(study_id) == 0:
        stored = winning_params(
            plan, study, storage, legal=lambda params: table.row(params) is not None
        )
        if stored:
            storage.set_study_user_attr(study_id, "neighbours", stored)
    rows = [table.row(params) for params in stored or ()]
    return [row for row in rows if row is not None]
