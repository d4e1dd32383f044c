"""Search: legal space, cost model, optuna, an isolated measuring process, records.

``run``, ``load_run``, ``repair`` and the timing functions load on first use, because optuna takes
half a second to import.
"""

from typing import TYPE_CHECKING, Any

from tuning.plan import Plan, Strategy, StudyPlan
from tuning.records import Environment, Measurement, Run, StudyRecord, TrialRecord

if TYPE_CHECKING:
    from tuning.journal import repair
    from tuning.limits import JobLimits
    from tuning.store import load_run
    from tuning.sweep import Progress, run
    from tuning.timing import Timing, time_callable, time_interleaved

__all__ = [
    "Environment",
    "JobLimits",
    "Measurement",
    "Plan",
    "Progress",
    "Run",
    "Strategy",
    "StudyPlan",
    "StudyRecord",
    "Timing",
    "TrialRecord",
    "load_run",
    "repair",
    "run",
    "time_callable",
    "time_interleaved",
]

_LAZY = {
    "JobLimits": "tuning.limits",
    "Progress": "tuning.sweep",
    "Timing": "tuning.timing",
    "load_run": "tuning.store",
    "repair": "tuning.journal",
    "run": "tuning.sweep",
    "time_callable": "tuning.timing",
    "time_interleaved": "tuning.timing",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
