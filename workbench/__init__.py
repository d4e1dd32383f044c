"""The tile workbench: predict, search, emit and verify low-precision GPU kernels.

The functions here are the verbs of the command line.  ``predict`` needs numpy and pyyaml alone;
the others load torch, triton, optuna or plotly when they are called.
"""

from typing import TYPE_CHECKING, Any

from tiles.version import VERSION
from workbench.api import emit, repair, report, select_recipes, sweep, unserved, verify, winners
from workbench.predictions import PredictedRow, PredictionReport, RefusedRow, predict
from workbench.shared import dashboard, work
from workbench.studies import export, import_t4, replay

if TYPE_CHECKING:
    from workbench.errors import ErrorReport, error
    from workbench.evaluation import Evaluation, evaluate

__all__ = [
    "ErrorReport",
    "Evaluation",
    "PredictedRow",
    "PredictionReport",
    "RefusedRow",
    "__version__",
    "dashboard",
    "emit",
    "error",
    "evaluate",
    "export",
    "import_t4",
    "predict",
    "repair",
    "replay",
    "report",
    "select_recipes",
    "sweep",
    "unserved",
    "verify",
    "winners",
    "work",
]

__version__ = VERSION

_LAZY = {
    "ErrorReport": "workbench.errors",
    "Evaluation": "workbench.evaluation",
    "error": "workbench.errors",
    "evaluate": "workbench.evaluation",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = found
    return found
