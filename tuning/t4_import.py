"""Run folders made of TuningSchema T4 files: our own, and those of other tuners."""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from sim import Gpu, load_gpu, parse_gpu, price
from tiles.intake import read_bounded, shown
from tiles.kernels import Accepted, ConfigTable, Kernel, Status, TileConfig
from tiles.problems import parse_problem
from tuning.family import family
from tuning.journal import JOURNAL, RunJournal
from tuning.plan import Plan, Strategy, StudyPlan
from tuning.records import Environment, Measurement, StudyRecord, TrialRecord
from tuning.store import load_run, quiet_optuna
from tuning.stored_plan import GPU_FILE, PLAN_FILE, UNFIT, unfit
from tuning.strategies.legal_table import LegalTable
from tuning.t4 import STUDY_SCHEMA, accuracy_in
from tuning.t4_schema import check_t4

__all__ = ["Imported", "import_t4"]

MAX_FILE_BYTES = 2**30

_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "ns": 1e-3, "": 1e3}
_TIME_UNITS = {"microseconds": "us", "milliseconds": "ms", "seconds": "s", "nanoseconds": "ns"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of the files."""

    folder: Path
    trials: int
    left_out: tuple[str, ...]  #: results that are no configuration of the kernel family, and why


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One file's study."""

    plan: Mapping[str, Any]
    gpu: Gpu
    study: StudyRecord
    left_out: tuple[str, ...] = ()


def import_t4(
    files: Sequence[Path],
    folder: Path,
    *,
    problem: str | None = None,
    kernel: str | None = None,
    gpu: str | None = None,
) -> Imported:
    """Write a run folder that holds the files' studies.

    Args:
        folder: to be made.
        problem, kernel, gpu: what a file of another tuner does not say: its problem's text, a
            kernel family whose fields its configurations have, and a GPU by name or file.

    Raises:
        ValueError: a file is no T4 file, does not say what it measured, or they do not belong
            together; or the folder cannot be made.
    """
    read = []
    for path in files:
        try:
            read.append(_read(path, problem, kernel, gpu))
        except UNFIT as error:
            if isinstance(error, ValueError) and str(error).startswith(str(path)):
                raise
            raise ValueError(f"{path}: {unfit(error)}") from error
    plan = _one_plan(files, [file.plan for file in read])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists: choose another output or delete it")
    made = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        made.mkdir(parents=True)
        (made / GPU_FILE).write_text(read[0].gpu.text, encoding="utf-8")
        with quiet_optuna(), RunJournal(made / JOURNAL) as journal:
            storage = JournalStorage(journal)
            for file in read:
                _store(storage, file)
        (made / PLAN_FILE).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        try:
            load_run(made)
        except ValueError as error:
            message = str(error).replace(str(made), str(folder))
            raise ValueError(f"{files[0]}: makes no run: {message}") from error
        made.replace(folder)
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be made: {error.strerror}: choose another output"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(made)
    return Imported(
        folder=folder,
        trials=sum(len(file.study.trials) for file in read),
        left_out=tuple(line for file in read for line in file.left_out),
    )


def _no_constant(text: str) -> float:
    raise ValueError(f"holds {text}, which is no JSON: write null or leave it out")


def _read(path: Path, problem: str | None, kernel: str | None, gpu: str | None) -> _File:
    text = read_bounded(path, MAX_FILE_BYTES)
    try:
        data = check_t4(json.loads(text, parse_constant=_no_constant))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    named = {"--problem": problem, "--kernel": kernel, "--gpu": gpu}
    if "workbench" in data:
        if given := [name for name, value in named.items() if value is not None]:
            raise ValueError(f"{path}: says itself what it holds: leave {given[0]} out")
        return _own(data)
    if problem is None or kernel is None or gpu is None:
        missing = [name for name, value in named.items() if value is None]
        raise ValueError(f"{path}: does not say what was measured: add {', '.join(missing)}")
    return _foreign(data, problem, kernel, gpu)


def _own(data: Mapping[str, Any]) -> _File:
    """A file that was exported here, read back as it was."""
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
    )
    gpu = parse_gpu(block["gpu_file"].encode(), "workbench.gpu_file")
    return _File(plan=block["plan"], gpu=gpu, study=study)


def _own_trial(index: int, result: Mapping[str, Any], config_type: type[TileConfig]) -> TrialRecord:
    block = result["workbench"]
    stored = block["measurement"]
    outcome = Measurement.from_dict({**stored, "accuracy": accuracy_in(stored["accuracy"])})
    time_us = _time_us(result, "ms")
    if outcome.status.value != result["invalidity"] or (
        time_us is not None
        and outcome.time_us is not None
        and abs(time_us / outcome.time_us - 1) > 1e-6
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
    )


def _foreign(data: Mapping[str, Any], problem_text: str, kernel_name: str, gpu_name: str) -> _File:
    """A file of another tuner: its configurations take our predictions."""
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
    priced = price(problem, kernel, ConfigTable.of(list(outcomes)), gpu)
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
    return _File(plan=plan.to_dict(), gpu=gpu, study=study, left_out=tuple(left_out))


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


def _time_us(result: Mapping[str, Any], unit: str) -> float | None:
    """What a result calls its time, in microseconds; None when it calls nothing so."""
    for entry in result.get("measurements", ()):
        if entry.get("name") in ("time", "simulated_time") and _positive(entry.get("value")):
            said = entry.get("unit") or unit
            if said not in _US:
                raise ValueError(f"a time in {shown(said)}: write ns, us, ms or s")
            return float(entry["value"]) * _US[said]
    return None


def _one_plan(files: Sequence[Path], plans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The plan of a sweep that had all the studies."""
    merged = {**plans[0], "studies": [], "sources": {}}
    for path, plan in zip(files, plans, strict=True):
        if not isinstance(plan, dict):
            raise ValueError(f"{path}: workbench.plan is no plan: export it anew")
        for key in plan.keys() | plans[0].keys():
            if key in ("studies", "sources"):
                continue
            if plan.get(key) != plans[0].get(key):
                raise ValueError(f"{path}: of another sweep than {files[0]} ({key} differs)")
        for kernel, digest in plan.get("sources", {}).items():
            if merged["sources"].setdefault(kernel, digest) != digest:
                raise ValueError(f"{path}: other kernel source than in {files[0]}")
        for study in plan["studies"]:
            if study in merged["studies"]:
                raise ValueError(f"{path}: holds a study that an earlier file holds")
            merged["studies"].append(study)
    if "sources" not in plans[0]:
        del merged["sources"]
    return merged


def _store(storage: JournalStorage, file: _File) -> None:
    """Write a study as a sweep would have."""
    study = file.study
    named = Plan(
        studies=(StudyPlan(problem=study.problem, kernel=study.kernel),),
        gpu=file.gpu,
        folder=Path(),
        simulate=study.simulated,
    )
    study_id = storage.create_new_study(
        [StudyDirection.MINIMIZE], named.study_name(named.studies[0])
    )
    attributes: dict[str, Any] = {
        "kernel": study.kernel,
        "gpu": study.gpu,
        "path": study.path,
        "simulated": study.simulated,
        "space_size": study.space_size,
        "legal_size": study.legal_size,
        "rejected_by_rule": dict(study.rejected_by_rule),
        "problem": str(study.problem),
        # The times are those of the comparison already.
        "compared": {
            "finished": len(study.trials),
            "timings": {},
            "failed": study.not_compared,
        },
    }
    if study.environment is not None:
        attributes["environment"] = study.environment.to_dict()
    if study.stopped:
        attributes["stopped"] = study.stopped
    for key, value in attributes.items():
        storage.set_study_user_attr(study_id, key, value)
    if not study.trials:
        return
    kernel = family(study.kernel)
    space = kernel.space(study.problem, file.gpu.limits)
    distributions = LegalTable(space, *(np.ones(len(space)),) * 3).space
    for trial in study.trials:
        time_us = trial.measurement.time_us
        storage.create_new_trial(
            study_id,
            template_trial=create_trial(
                state=TrialState.PRUNED if time_us is None else TrialState.COMPLETE,
                value=time_us,
                params=trial.config.to_dict(),
                distributions=distributions,
                user_attrs={
                    "predicted_us": trial.predicted_us,
                    "predicted_90_us": [trial.predicted_low_us, trial.predicted_high_us],
                    "measurement": trial.measurement.to_dict(),
                },
            ),
        )
