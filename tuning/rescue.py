"""Trials whose worker died: those that were measured are closed, the others wait again."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from tuning.family import family
from tuning.objective import Objective

__all__ = ["close_measured", "fail_stale_trials", "requeue_callback"]


def close_measured(storage: BaseStorage, trial_ids: Iterable[int]) -> list[int]:
    """Close the trials whose outcome is stored, and return the others.

    A worker stores the outcome first, then closes the trial; killed in between it leaves a trial
    that runs for ever and needs no second measurement.
    """
    unmeasured = []
    for trial_id in trial_ids:
        attributes = storage.get_trial(trial_id).user_attrs
        outcome = attributes.get("measurement")
        if outcome is None:
            unmeasured.append(trial_id)
            continue
        # Stored before the outcome, and only where energy is searched for.
        by_energy = "predicted_energy_mj" in attributes
        value = (Objective.ENERGY if by_energy else Objective.TIME).of_stored(outcome)
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        try:
            storage.set_trial_state_values(
                trial_id, state, values=None if value is None else [value]
            )
        except UpdateFinishedTrialError:
            continue  # another process closed it meanwhile
    return unmeasured


def requeue_callback() -> Callable[[Any, FrozenTrial], None]:
    """Optuna's callback that puts a stale trial back into the queue, with its configuration.

    A trial that was cut short while its configuration was stored has none; it is not repeated,
    and the configuration is free for another trial.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        retry = RetryHeartbeatStaleTrialCallback()

    def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
        config_type = family(study.user_attrs["kernel"]).config_type
        needed = config_type.__dataclass_fields__.keys() - config_type.defaults().keys()
        if "fixed_params" not in trial.system_attrs:
            if not trial.params.keys() >= needed:
                return
            trial.system_attrs["fixed_params"] = trial.params
        trial.params, trial.distributions = {}, {}  # the next worker stores them from the queue
        retry(study, trial)

    return requeue


def fail_stale_trials(study: optuna.Study) -> None:
    """Optuna's own, called outside ``optimize`` by a worker that waits for the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
