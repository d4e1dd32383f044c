"""What a T4 file measured: our own, as it was; another tuner's, beside our predictions."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sim import Gpu, load_gpu, parse_gpu
from tiles.intake import shown
from tiles.kernels import Accepted, ConfigTable, Kernel, Status, TileConfig
from tiles.problems import parse_problem
from tuning.candidates import pricing
from tuning.family import family
from tuning.objective import objective_of
from tuning.plan import Plan, Strategy, StudyPlan
from tuning.records import Environment, Measurement, StudyRecord, TrialRecord
from tuning.stored_plan import number
from tuning.t4 import STUDY_SCHEMA, accuracy_in

__all__ = ["T4Study", "foreign_study", "own_study"]

#: Microseconds in a unit; Kernel Tuner's milliseconds where none is named.
_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "ns": 1e-3, "": 1e3}
_TIME_UNITS = {"microseconds": "us", "milliseconds": "ms", "seconds": "s", "nanoseconds": "ns"}


@dataclass(frozen=True, slots=True, kw_only=True)
class T4Study:
    """One file's study."""

    plan: Mapping[str, Any]
    gpu: Gpu
    study: StudyRecord
    left_out: tuple[str, ...] = ()


def own_study(data: Mapping[str, Any]) -> T4Study:
    """A file that was exported here, read back as it was.

    Args:
        data: what :func:`tuning.t4_schema.check_t4` has passed, with a key ``workbench``.

    Raises:
        ValueError: another version wrote it, or it was edited.
        KeyError, TypeError: what stands under the key ``workbench`` is not what was written.
    """
    block = data["workbench"]
    if not isinstance(block, dict) or block.get("schema") != STUDY_SCHEMA:
        found = block.get("schema") if isinstance(block, dict) else block
        raise ValueError(f"workbench.schema: {shown(found)}, this version reads {STUDY_SCHEMA!r}")
    config_type = family(block["kernel"]).config_type
    environment = block["environment"]
    study = StudyRecord(
        problem=parse_problem(block["problem"]),
        kernel=block["kernel"],
        gpu=block["gpu"],
        path=block["path"],
        simulated=block["simulated"],
        environment=None if environment is None else Environment.from_dict(environment),
        space_size=block["space_size"],
        legal_size=block["legal_size"],
        rejected_by_rule=block["rejected_by_rule"],
        stopped=block["stopped"],
        not_compared=block["not_compared"],
        trials=tuple(
            _own_trial(index, result, config_type) for index, result in enumerate(data["results"])
        ),
        # Files of before these keys have neither: the source is the plan's.
        source=_text(block, "source"),
        repeats=block.get("repeats", 0),
        objective=objective_of(block["plan"] if isinstance(block["plan"], dict) else {}),
    )
    gpu = parse_gpu(block["gpu_file"].encode(), "workbench.gpu_file")
    return T4Study(plan=block["plan"], gpu=gpu, study=study)


def _own_trial(index: int, result: Mapping[str, Any], config_type: type[TileConfig]) -> TrialRecord:
    block = result["workbench"]
    stored = block["measurement"]
    outcome = Measurement.from_dict({**stored, "accuracy": accuracy_in(stored["accuracy"])})
    energy = outcome.energy
    told = (
        (_time_us(result, "ms"), outcome.time_us),
        (_energy_mj(result), None if energy is None else energy.energy_mj),
    )
    if outcome.status.value != result["invalidity"] or any(
        one is not None and other is not None and abs(one / other - 1) > 1e-6 for one, other in told
    ):
        raise ValueError(
            f"results[{index}]: its key workbench says otherwise than the rest: it was edited; "
            "export it anew"
        )
    low, high = block["predicted_90_us"]
    return TrialRecord(
        config=config_type.from_dict(result["configuration"]),
        measurement=outcome,
        predicted_us=block["predicted_us"],
        predicted_low_us=low,
        predicted_high_us=high,
        stale=_text(block, "stale"),
        outpaced=_factor(block, "outpaced"),
        predicted_energy_mj=block.get("predicted_energy_mj"),
    )


def _factor(block: Mapping[str, Any], key: str) -> float:
    value = number(key, block.get(key, 0.0))
    if value < 0:
        raise ValueError(f"{key} is below zero")
    return float(value)


def _text(block: Mapping[str, Any], key: str) -> str:
    value = block.get(key, "")
    if not isinstance(value, str):
        raise TypeError(f"{key} is not a text")
    return value


def foreign_study(
    data: Mapping[str, Any], problem_text: str, kernel_name: str, gpu_name: str
) -> T4Study:
    """A file of another tuner: its configurations take our predictions.

    Args:
        data: what :func:`tuning.t4_schema.check_t4` has passed.
        problem_text, kernel_name, gpu_name: what was measured.

    Raises:
        ValueError: a configuration has other fields than the kernel family's, a time is missing,
            or nothing is legal there.
    """
    problem, kernel, gpu = parse_problem(problem_text), family(kernel_name), load_gpu(gpu_name)
    refusal = kernel.refusal(problem, gpu.limits)
    if refusal is not None:
        raise ValueError(f"{kernel_name} cannot serve {problem}: {refusal}")
    unit = _TIME_UNITS.get(str(data.get("metadata", {}).get("timeunit", "milliseconds")), "ms")
    outcomes: dict[TileConfig, Measurement] = {}
    left_out = []
    for index, result in enumerate(data["results"]):
        try:
            config = _config(kernel, result["configuration"])
        except ValueError as error:
            raise ValueError(f"results[{index}].configuration: {error}") from error
        verdict = kernel.judge(problem, config, gpu.limits)
        if not isinstance(verdict, Accepted):
            left_out.append(f"results[{index}]: not legal on {gpu.name}: {verdict.reason}")
        elif config in outcomes:
            left_out.append(f"results[{index}]: the same configuration as an earlier one")
        else:
            outcomes[config] = _foreign_outcome(index, result, unit)
    if not outcomes:
        raise ValueError(f"no result is a legal configuration of {kernel_name}: {left_out[:1]}")
    space = kernel.legal_space(problem, gpu.limits)
    priced = pricing(problem, kernel)(problem, kernel, ConfigTable.of(list(outcomes)), gpu)
    legal_size = len(space.accepted)
    whole = len(outcomes) == legal_size
    study = StudyRecord(
        problem=problem,
        kernel=kernel_name,
        gpu=gpu.name,
        path=kernel.path(problem, gpu.limits).value,
        simulated=False,
        environment=None,
        space_size=len(space.table),
        legal_size=legal_size,
        rejected_by_rule=space.rejected_by_rule,
        stopped="imported",
        not_compared="",
        trials=tuple(
            TrialRecord(
                config=config,
                measurement=outcome,
                predicted_us=float(priced.time_us[row]),
                predicted_low_us=float(priced.low_us[row]),
                predicted_high_us=float(priced.high_us[row]),
            )
            for row, (config, outcome) in enumerate(outcomes.items())
        ),
    )
    plan = Plan(
        studies=(StudyPlan(problem=problem, kernel=kernel_name),),
        gpu=gpu,
        folder=Path(),
        # Who chose a part of the space is not known: nobody may take it for a fair sample.
        strategy=Strategy.EXHAUSTIVE if whole else Strategy.HYBRID,
        max_measurements=len(outcomes),
    )
    return T4Study(plan=plan.to_dict(), gpu=gpu, study=study, left_out=tuple(left_out))


def _config(kernel: Kernel, values: Mapping[str, Any]) -> TileConfig:
    """A configuration; tuners without flags write 0 and 1."""
    flags = {f.name for f in fields(kernel.config_type) if f.type in (bool, "bool")}
    plain = {
        name: bool(value) if name in flags and value in (0, 1) else value
        for name, value in values.items()
    }
    return kernel.config_type.from_dict(plain)


def _foreign_outcome(index: int, result: Mapping[str, Any], unit: str) -> Measurement:
    status = Status(result["invalidity"])
    if status is Status.CORRECT and result["correctness"] == 0:
        status = Status.CORRECTNESS
    if status is not Status.CORRECT:
        return Measurement(status=status, simulated=False, reason=f"imported: {status.value}")
    runtimes = result["times"].get("runtimes", [])
    if not all(_positive(value) for value in runtimes):
        raise ValueError(f"results[{index}].times.runtimes: takes positive numbers: correct it")
    samples = tuple(float(value) * _US[unit] for value in runtimes)
    time_us = _time_us(result, unit)
    if time_us is None and samples:
        time_us = float(np.median(samples))
    if time_us is None:
        raise ValueError(f"results[{index}]: correct, but no measurement is called time: add one")
    return Measurement(
        status=status, simulated=False, time_us=time_us, samples_us=samples, timing="imported"
    )


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12


def _energy_mj(result: Mapping[str, Any]) -> float | None:
    """What a result of ours calls its energy, in millijoules; None when it calls nothing so."""
    for entry in result.get("measurements", ()):
        if entry.get("name") in ("energy", "simulated_energy") and _positive(entry.get("value")):
            return 1e3 * float(entry["value"])
    return None


def _time_us(result: Mapping[str, Any], unit: str) -> float | None:
    """What a result calls its time, in microseconds; None when it calls nothing so."""
    for entry in result.get("measurements", ()):
        if entry.get("name") in ("time", "simulated_time") and _positive(entry.get("value")):
            said = entry.get("unit") or unit
            if said not in _US:
                raise ValueError(f"a time in {shown(said)}: write ns, us, ms or s")
            return float(entry["value"]) * _US[said]
    return None
