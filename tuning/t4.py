"""Studies as TuningSchema T4 files, which other tuners and their tools read.

What the schema has no place for stands under the key ``workbench``, which other readers skip, so
that a study comes back from its file as it was.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from tiles.kernels import Status
from tuning.objective import Objective
from tuning.records import Run, StudyRecord, TrialRecord
from tuning.t4_schema import T4_VERSION

__all__ = ["STUDY_SCHEMA", "accuracy_in", "study_to_t4", "t4_text"]

STUDY_SCHEMA = "tile-workbench/t4-study/1"


def study_to_t4(run: Run, study: StudyRecord) -> dict[str, Any]:
    """One study's content as a T4 file.

    Times are milliseconds, as Kernel Tuner writes them, and each measurement names its unit.
    ``correctness`` is 1 for configurations whose answer was checked and right, else 0.
    """
    environment = study.environment
    device = {} if environment is None else environment.to_dict()
    versions = device.pop("versions", {})
    return {
        "schema_version": T4_VERSION,
        "metadata": {
            "timeunit": "milliseconds",
            "hardware": {"gpu": study.gpu},
            "environment": {
                "device_query": device,
                "requirements": [f"{name}=={version}" for name, version in versions.items()],
            },
        },
        "workbench": {
            "schema": STUDY_SCHEMA,
            "plan": _plan_of(run, study),
            "gpu_file": run.gpu.text,
            "problem": str(study.problem),
            "kernel": study.kernel,
            "gpu": study.gpu,
            "path": study.path,
            "simulated": study.simulated,
            "environment": None if environment is None else environment.to_dict(),
            "space_size": study.space_size,
            "legal_size": study.legal_size,
            "rejected_by_rule": dict(study.rejected_by_rule),
            "stopped": study.stopped,
            "not_compared": study.not_compared,
            "source": study.source,
            "repeats": study.repeats,
        },
        "results": [_result(trial, study.objective) for trial in study.trials],
    }


def _plan_of(run: Run, study: StudyRecord) -> dict[str, Any]:
    """The run's plan as if it had this study alone."""
    plan = {
        **run.plan,
        "studies": [{"problem": str(study.problem), "kernel": study.kernel}],
    }
    if "sources" in plan:
        # Of a family that has left since, or never had a source here, there is none.
        plan["sources"] = {k: v for k, v in plan["sources"].items() if k == study.kernel}
    return plan


def _result(trial: TrialRecord, objective: Objective) -> dict[str, Any]:
    outcome = trial.measurement
    stored = outcome.to_dict()
    measurements: list[dict[str, Any]] = [
        {"name": "predicted_time", "value": trial.predicted_us / 1000, "unit": "ms"},
    ]
    if outcome.time_us is not None:
        # Simulated times are predictions and nothing else, also for those who skip our key.
        name = "simulated_time" if outcome.simulated else "time"
        measurements.insert(0, {"name": name, "value": outcome.time_us / 1000, "unit": "ms"})
    if trial.predicted_energy_mj is not None:
        joules = trial.predicted_energy_mj / 1000
        measurements.append({"name": "predicted_energy", "value": joules, "unit": "J"})
    if outcome.energy is not None:
        name = "simulated_energy" if outcome.simulated else "energy"
        joules = outcome.energy.energy_mj / 1000
        measurements.append({"name": name, "value": joules, "unit": "J"})
    if outcome.accuracy is not None and math.isfinite(outcome.accuracy.relative_rms):
        rms = outcome.accuracy.relative_rms
        measurements.append({"name": "relative_rms_error", "value": rms, "unit": ""})
    searched = objective.value
    energy = trial.predicted_energy_mj
    return {
        "configuration": trial.config.to_dict(),
        "objectives": [f"simulated_{searched}" if outcome.simulated else searched],
        "times": {"runtimes": [sample / 1000 for sample in outcome.samples_us]},
        "invalidity": outcome.status.value,
        "correctness": int(outcome.status is Status.CORRECT),
        "measurements": measurements,
        "workbench": {
            "measurement": {**stored, "accuracy": _accuracy_out(stored["accuracy"])},
            "predicted_us": trial.predicted_us,
            "predicted_90_us": [trial.predicted_low_us, trial.predicted_high_us],
            **({"stale": trial.stale} if trial.stale else {}),
            **({"outpaced": trial.outpaced} if trial.outpaced else {}),
            **({} if energy is None else {"predicted_energy_mj": energy}),
        },
    }


def t4_text(content: Mapping[str, Any]) -> str:
    """A T4 file's text: strict JSON, a line a result, so that files compare line by line."""
    head = {key: value for key, value in content.items() if key != "results"}
    lines = ",\n".join(json.dumps(result, allow_nan=False) for result in content["results"])
    return f'{json.dumps(head, allow_nan=False)[:-1]}, "results": [\n{lines}\n]}}\n'


def _accuracy_out(accuracy: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An accuracy without NaN and infinities, which JSON does not have."""
    if accuracy is None:
        return None
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in accuracy.items()
    }


def accuracy_in(accuracy: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Inverse of what a file's accuracy went through."""
    if accuracy is None:
        return None
    numbers = ("max_error_over_bound", "relative_rms")
    return {key: float(v) if key in numbers else v for key, v in accuracy.items()}
