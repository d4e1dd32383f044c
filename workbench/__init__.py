"""The tile workbench: predict, search, emit and verify low-precision GPU kernels.

The functions here are the verbs of the command line.  ``predict`` needs numpy and pyyaml alone;
the others load torch, triton, optuna or plotly when they are called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tiles.version import VERSION
from workbench.api import emit, repair, report, select_recipes, sweep, unserved, verify, winners
from workbench.calibrations import calibrate
from workbench.prediction_report import PredictedRow, PredictionReport, RefusedRow
from workbench.predictions import predict
from workbench.promotions import Promotion, promote
from workbench.shared import dashboard, work
from workbench.studies import export, import_t4, replay

if TYPE_CHECKING:
    from workbench.deploy.convert import Converted, convert
    from workbench.deploy.finding import LintReport
    from workbench.deploy.lint import lint
    from workbench.errors import ErrorReport, error
    from workbench.evaluation import evaluate
    from workbench.evaluation_report import Evaluation
    from workbench.networks import NetworkReport, predict_network
    from workbench.ptq import quantize

__all__ = [
    "Converted",
    "ErrorReport",
    "Evaluation",
    "LintReport",
    "NetworkReport",
    "PredictedRow",
    "PredictionReport",
    "Promotion",
    "RefusedRow",
    "__version__",
    "calibrate",
    "convert",
    "dashboard",
    "emit",
    "error",
    "evaluate",
    "export",
    "import_t4",
    "lint",
    "predict",
    "predict_network",
    "promote",
    "quantize",
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

#: Names by the modules that are imported when one of them is first asked for.
_LATER = {
    "Converted": "deploy.convert",
    "LintReport": "deploy.finding",
    "convert": "deploy.convert",
    "lint": "deploy.lint",
    "ErrorReport": "errors",
    "Evaluation": "evaluation_report",
    "error": "errors",
    "evaluate": "evaluation",
    "NetworkReport": "networks",
    "predict_network": "networks",
    "quantize": "ptq",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"workbench.{_LATER[name]}"), name)
    globals()[name] = found
    return found
