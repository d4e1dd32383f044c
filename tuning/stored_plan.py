"""The plan of a run folder, and the GPU that it is for, read back and checked."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim import Gpu, gpu_names, load_gpu, parse_gpu
from sim.gpu_file import MAX_FILE_BYTES
from tiles.intake import read_bounded
from tuning.objective import objective_of
from tuning.plan import PLAN_SCHEMA, StudyPlan

__all__ = [
    "CALIBRATION_FILE",
    "GPU_FILE",
    "PLAN_FILE",
    "UNFIT",
    "check_plan",
    "difference",
    "number",
    "read_gpu",
    "read_plan",
    "unfit",
]

PLAN_FILE = "plan.json"
GPU_FILE = "gpu.yaml"
CALIBRATION_FILE = "calibration.json"

#: How optuna and the records answer to data of the wrong shape.
UNFIT = (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError)
_NUMBERS = ("seed", "max_measurements", "time_limit_s")
_TEXTS = ("gpu", "cache", "strategy")
#: A sweep may be continued with more measurements or more time; the rest of its plan is fixed.
_BUDGET = ("max_measurements", "time_limit_s")
#: How messages call a key of the plan.
_SAID = {
    "gpu_sha256": "the GPU file",
    "sources": "the kernels' source",
    "calibration_sha256": "the calibration",
}
_ANEW = "bring back a copy, or sweep into another output"


def read_plan(folder: Path) -> dict[str, Any]:
    """The stored plan of a run folder.

    Raises:
        ValueError: no such folder, no plan in it, or not a plan of this version.
    """
    path = folder / PLAN_FILE
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such run folder")
    try:
        plan = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no sweep: {PLAN_FILE} is missing") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cut off or corrupt: {error}; {_ANEW}") from error
    check_plan(plan, str(path))
    return dict(plan)


def check_plan(plan: Any, where: str) -> None:
    """Look at a plan that was stored.

    Raises:
        ValueError: not a plan of this version; the message begins with ``where``.
    """
    if not isinstance(plan, dict) or plan.get("schema") != PLAN_SCHEMA:
        found = plan.get("schema") if isinstance(plan, dict) else type(plan).__name__
        raise ValueError(f"{where}: schema {found!r}, this version reads {PLAN_SCHEMA!r}; {_ANEW}")
    try:
        for study in plan["studies"]:
            StudyPlan.from_dict(study)
        for key in _NUMBERS:
            if key != "time_limit_s" or plan[key] is not None:
                number(key, plan[key])
        for key in _TEXTS:
            if not isinstance(plan[key], str):
                raise TypeError(f"{key} is not a text")
        objective_of(plan)
    except UNFIT as error:
        raise ValueError(f"{where}: {unfit(error)}; {_ANEW}") from error


def difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What two plans disagree about, their budgets left out; "" when they agree."""
    there, here = objective_of(stored), objective_of(wanted)
    if there is not here:
        return f"the objective, {there.value} there and {here.value} here,"
    keys = [*wanted, *(stored.keys() - wanted.keys() & {"calibration_sha256"})]
    # Other studies may bring other families, whose source is none that differs.
    for key in sorted(keys, key=lambda key: key == "sources"):
        if key not in _BUDGET and stored.get(key) != wanted.get(key):
            return _SAID.get(key, key)
    return ""


def read_gpu(folder: Path, plan: Mapping[str, Any]) -> Gpu:
    """The GPU that a run folder's sweep is for, as its file said when the sweep began.

    Raises:
        ValueError: the folder's copy of the file is missing, or it is not that file.
    """
    path = folder / GPU_FILE
    # Plans once held the name alone; it meant a GPU that comes with the workbench.
    if "gpu_sha256" not in plan and plan["gpu"] in gpu_names():
        return load_gpu(plan["gpu"])
    try:
        data = read_bounded(path, MAX_FILE_BYTES)
    except ValueError as error:
        raise ValueError(f"{error}; {_ANEW}") from error
    if hashlib.sha256(data).hexdigest() != plan.get("gpu_sha256"):
        raise ValueError(f"{path}: not the file that the sweep began with; {_ANEW}")
    gpu = parse_gpu(data, str(path))
    if gpu.name != plan["gpu"]:
        raise ValueError(f"{path}: names {gpu.name!r}, {PLAN_FILE} {plan['gpu']!r:.60}; {_ANEW}")
    return gpu


def number(key: str, value: Any) -> Any:
    """The value, when it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{key} is not a number")
    return value


def unfit(error: BaseException) -> str:
    """What is wrong with data that parsed: the key that is missing, or the exception's message."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error) or "out of order"
