"""In which order a sweep searches its studies."""

from collections.abc import Sequence

from optuna.storages import BaseStorage

from tuning.candidates import Candidates
from tuning.plan import Plan
from tuning.turn import TIME_IS_UP

__all__ = ["study_order"]


def study_order(plan: Plan, found: Sequence[Candidates], storage: BaseStorage) -> list[int]:
    """Places of the studies, those first that the sweep's time did not reach before.

    That is the plan's order, unless the storage holds a sweep whose time was over: then studies
    without any outcome come before the others.  What was killed before goes on in the plan's order,
    because a study learns from those that ended before it began.

    Args:
        storage: an open one.
    """
    ids = [_id(storage, plan.study_name(study.plan)) for study in found]
    if all(one is None or not _ran_out(storage, one) for one in ids):
        return list(range(len(found)))
    return sorted(range(len(found)), key=lambda place: _has_outcome(storage, ids[place]))


def _id(storage: BaseStorage, name: str) -> int | None:
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        return None


def _ran_out(storage: BaseStorage, study_id: int) -> bool:
    return bool(storage.get_study_user_attrs(study_id).get("stopped") == TIME_IS_UP)


def _has_outcome(storage: BaseStorage, study_id: int | None) -> bool:
    if study_id is None:
        return False
    trials = storage.get_all_trials(study_id, deepcopy=False)
    return any("measurement" in trial.user_attrs for trial in trials)
