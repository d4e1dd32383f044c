"""Search: legal space, cost model, optuna, an isolated measuring process, records.

What needs optuna, which takes half a second to import, loads on first use.
"""

from typing import TYPE_CHECKING, Any

from tuning.plan import Plan, Strategy, StudyPlan
from tuning.records import Environment, Measurement, Run, StudyRecord, TrialRecord

if TYPE_CHECKING:
    from tuning.fleet import load_shared, run_shared
    from tuning.journal_file import repair
    from tuning.limits import JobLimits
    from tuning.search import Progress
    from tuning.store import load_run
    from tuning.sweep import run
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
    "load_shared",
    "repair",
    "run",
    "run_shared",
    "time_callable",
    "time_interleaved",
]

_LAZY = {
    "JobLimits": "tuning.limits",
    "Progress": "tuning.search",
    "Timing": "tuning.timing",
    "load_run": "tuning.store",
    "load_shared": "tuning.fleet",
    "repair": "tuning.journal_file",
    "run": "tuning.sweep",
    "run_shared": "tuning.fleet",
    "time_callable": "tuning.timing",
    "time_interleaved": "tuning.timing",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
