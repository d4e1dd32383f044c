"""Optuna's relational storage, patient with a server that does not answer for a while."""

import inspect
import json
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError

__all__ = ["PatientStorage", "lacks_right"]

#: What may be done again when the connection broke, because doing it twice changes nothing.
_REPEATABLE = (
    "create_new_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "_create_new_trial",  # at worst a trial that nobody runs, which goes stale without harm
    "_set_trial_param",
    "set_trial_state_values",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial_id_from_study_id_trial_number",
    "get_trial",
    "_get_trials",
    "record_heartbeat",
)


def _patient(name: str) -> Callable[..., Any]:
    """RDBStorage's method, called again while the server restarts."""
    method = getattr(RDBStorage, name)
    signature = inspect.signature(method)

    @wraps(method)
    def call(self: "PatientStorage", *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        return self._through_outages(
            lambda: method(self, *args, **kwargs), lambda: self._holds(name, given)
        )

    return call


class PatientStorage(RDBStorage):
    """Calls that may be made twice are, until the server answers again.

    Attributes:
        shown: the URL as messages and files may hold it.
    """

    shown: str
    _secrets: list[str]  #: what no message may repeat
    _outage_s: float  #: how long a server that stopped answering is waited for

    def _clean(self, error: BaseException) -> str:
        """The first line of what the driver said, without secrets."""
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        original = getattr(cause, "orig", None) or cause or error
        text = next(
            (line for line in str(original).splitlines() if line.strip()), "no reason given"
        )
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _refused(self, error: BaseException) -> ValueError:
        """What to tell of a server that answers and will not do it."""
        advice = "correct what it names, then run the same command again"
        if lacks_right(error):
            advice = "grant its role that right, or name another role in the URL"
        return ValueError(f"storage {self.shown} refuses: {self._clean(error)}: {advice}")

    def _through_outages(
        self, call: Callable[[], Any], holds: Callable[[], bool] | None = None
    ) -> Any:
        """Make a call, again while the server restarts.

        Args:
            holds: of a call that writes: whether what it writes is stored.
        Raises:
            ValueError: the server refuses, or stays away for too long.
        """
        deadline: float | None = None
        while True:
            try:
                return call()
            except UpdateFinishedTrialError:
                # Tried again, it may have been stored before its answer was lost, or the trial was
                # given to another worker while nobody heard of this one.
                if deadline is None or holds is None or not holds():
                    raise
                return True
            except (StorageInternalError, OperationalError, InterfaceError) as error:
                if not _is_outage(error):
                    raise self._refused(error) from None
                now = time.monotonic()
                deadline = deadline or now + self._outage_s
                if now > deadline:
                    raise ValueError(
                        f"storage {self.shown} does not answer any more: {self._clean(error)}: "
                        "nothing stored is lost; start the server, then run the same command again"
                    ) from None
                time.sleep(0.25)

    def _holds(self, name: str, given: Mapping[str, Any]) -> bool:
        trial = self.get_trial(given["trial_id"])
        if name == "set_trial_state_values":
            return bool(trial.state == given["state"])
        kept = {
            "set_trial_user_attr": trial.user_attrs,
            "set_trial_system_attr": trial.system_attrs,
        }
        # As JSON: the storage gives lists for tuples.
        return name in kept and json.dumps(kept[name].get(given["key"])) == json.dumps(
            given["value"]
        )


for _name in _REPEATABLE:
    setattr(PatientStorage, _name, _patient(_name))


def lacks_right(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    # SQLSTATE of "insufficient privilege".
    return getattr(getattr(cause, "orig", None), "sqlstate", None) == "42501"


def _is_outage(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    # Optuna answers a broken query with another one on the same, dead connection.
    return isinstance(cause, OperationalError | InterfaceError | PendingRollbackError) or (
        isinstance(cause, DBAPIError) and cause.connection_invalidated
    )
