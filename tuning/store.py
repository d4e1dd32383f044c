"""The run folder: what is in it, how it is opened for a sweep and read back afterwards."""

import contextlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from sim import Gpu, parse_gpu
from tiles.kernels import TileConfig
from tiles.problems import parse_problem
from tiles.regular_file import check_regular
from tuning.begun_mark import check_begun
from tuning.family import family
from tuning.journal_file import JOURNAL, PACKED, ReadOnlyJournal
from tuning.leases import SUFFIX
from tuning.objective import Objective, objective_of
from tuning.plan import Plan
from tuning.records import Environment, Measurement, Run, StudyRecord, TrialRecord
from tuning.replayed_journal import ReplayedJournal
from tuning.stored_plan import (
    CALIBRATION_FILE,
    GPU_FILE,
    PLAN_FILE,
    UNFIT,
    difference,
    number,
    read_gpu,
    read_plan,
    unfit,
)
from tuning.validity import Validity

__all__ = [
    "check_folder",
    "load_run",
    "quiet_optuna",
    "read_run",
    "replace_file",
    "store_plan",
    "whole",
]

#: What a sweep that was killed at its very start may leave.
_LEFT_OVERS = frozenset(
    {
        *(JOURNAL, f"{JOURNAL}.torn", GPU_FILE, f"{GPU_FILE}.tmp", f"{PLAN_FILE}.tmp"),
        *(CALIBRATION_FILE, f"{CALIBRATION_FILE}.tmp"),
    }
)
#: What :func:`replace_file` calls a file that is not whole yet, after its own name.
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}(?=\.tmp$)")


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence optuna's log, which repeats what the records hold, and restore it afterwards."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[None]:
    """Read back what a journal's lines say together; each line alone is known to be good.

    Raises:
        ValueError: the lines contradict one another, as after an edit or a lost line.
    """
    try:
        yield
    except UNFIT as error:
        raise ValueError(
            f"{path}: its entries do not fit together ({unfit(error)}): it was edited or lost "
            "lines; bring back a copy, or sweep into another output"
        ) from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is never seen half.

    Of several processes that write it at once each has a name of its own; the last one's stays.

    Raises:
        ValueError: it cannot be written, or a device or a pipe stands there.
    """
    check_regular(path)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ValueError(
            f"{path}: cannot be written: {error.strerror}: free space or choose another output"
        ) from error


def check_folder(plan: Plan, *, sources: bool = True, elsewhere: str = "another output") -> None:
    """Make the run folder, or accept one that holds the same plan, whatever its budget.

    Args:
        sources: whether the kernels' source must be the same, too.
        elsewhere: what the caller's caller may choose instead, as messages call it.

    Raises:
        ValueError: the folder holds another sweep, or cannot be made.
    """
    if parse_gpu(plan.gpu.text.encode(), f"gpu {plan.gpu.name!r}") != plan.gpu:
        raise ValueError(
            f"gpu {plan.gpu.name!r} was changed after its file was read: write the figures into "
            "the file"
        )
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{plan.folder}: cannot be made: {error.strerror}: choose {elsewhere}"
        ) from error
    journal = plan.folder / JOURNAL
    # Before the plan is looked for: another process may begin the same sweep right now, and what it
    # writes after its plan would seem to be there without one.
    begun = journal.exists() and journal.stat().st_size > 0
    names = sorted(entry.name for entry in plan.folder.iterdir() if SUFFIX not in entry.suffixes)
    if (plan.folder / PLAN_FILE).exists():
        stored = read_plan(plan.folder)
        wanted = plan.to_dict()
        if not sources:
            stored["sources"] = wanted["sources"]
        if differs := difference(stored, wanted):
            raise ValueError(
                f"{plan.folder} holds another sweep ({differs} differs): "
                f"choose {elsewhere} or delete it"
            )
        if (plan.folder / PACKED).exists() and not journal.exists():
            raise ValueError(
                f"{plan.folder} holds a finished data set ({PACKED}): choose {elsewhere}"
            )
        read_gpu(plan.folder, stored)
    elif begun:
        raise ValueError(
            f"{plan.folder} holds a journal without {PLAN_FILE}: choose {elsewhere} or delete it"
        )
    elif foreign := [name for name in names if _TEMPORARY.sub("", name) not in _LEFT_OVERS]:
        raise ValueError(
            f"{plan.folder} holds {foreign[0]!r} and no sweep: choose {elsewhere}, a folder "
            "of its own"
        )


def store_plan(plan: Plan) -> None:
    """Write the resolved plan and its GPU's file, unless they are there.

    Raises:
        ValueError: the folder cannot be written.
    """
    path = plan.folder / PLAN_FILE
    if not path.exists():  # the plan last: with it the folder is a sweep's
        replace_file(plan.folder / GPU_FILE, plan.gpu.text.encode())
        if plan.calibration is not None:
            replace_file(plan.folder / CALIBRATION_FILE, plan.calibration.text.encode())
    if not path.exists() or read_plan(plan.folder) != plan.to_dict():
        replace_file(path, (json.dumps(plan.to_dict(), indent=1) + "\n").encode())


def load_run(folder: Path) -> Run:
    """Read a run folder; writes nothing, also while its sweep goes on.

    Raises:
        ValueError: no such folder, no sweep in it, or a file is cut off or corrupt; the message
            names file, line and next step.
    """
    plan = read_plan(folder)
    gpu = read_gpu(folder, plan)
    path = folder / JOURNAL
    if not path.exists() and (folder / PACKED).exists():
        path = folder / PACKED
    if not path.exists():
        check_begun(path)
        return Run(folder=folder, plan=plan, gpu=gpu, studies=())
    journal = ReadOnlyJournal(path)  # says itself which line is damaged
    with quiet_optuna(), whole(path):
        return read_run(folder, plan, gpu, ReplayedJournal(journal))


def read_run(
    folder: Path,
    plan: Mapping[str, Any],
    gpu: Gpu,
    storage: BaseStorage,
    ours: Callable[[Mapping[str, Any]], bool] = lambda attributes: True,
) -> Run:
    """A run from its open storage, studies in the plan's order.

    Args:
        ours: of a storage that holds other sweeps too: whether a study of these attributes counts.
    """
    records = []
    for study in storage.get_all_studies():
        if "problem" not in study.user_attrs:
            continue  # killed between its creation and its description: nothing was tried
        if not ours(study.user_attrs):
            continue
        trials = storage.get_all_trials(study._study_id, deepcopy=False)
        if study.user_attrs["gpu"] != gpu.name:
            raise ValueError(f"a study is for another GPU than {gpu.name!r}")
        source = plan.get("sources", {}).get(study.user_attrs["kernel"], "")
        records.append(_study_record(study.user_attrs, trials, source, objective_of(plan)))
    planned = [(study["problem"], study["kernel"]) for study in plan["studies"]]
    order = {study: index for index, study in enumerate(planned)}
    records.sort(key=lambda s: order.get((str(s.problem), s.kernel), len(order)))
    return Run(folder=folder, plan=plan, gpu=gpu, studies=tuple(records))


def _study_record(
    attributes: Mapping[str, Any], trials: list[FrozenTrial], source: str, objective: Objective
) -> StudyRecord:
    validity = Validity.of(attributes)
    again = attributes.get("revalidated")
    environment = attributes.get("environment") if again is None else again["environment"]
    kernel = family(attributes["kernel"])
    outpaced = validity.outpaced(trials, objective)
    records: dict[TileConfig, TrialRecord] = {}
    measured = 0
    for trial in trials:
        if not isinstance(trial.system_attrs, dict):
            raise TypeError(f"system_attrs of trial {trial.number} is no mapping")
        if "measurement" not in trial.user_attrs:
            continue
        low, high = trial.user_attrs["predicted_90_us"]
        energy_mj = trial.user_attrs.get("predicted_energy_mj")
        measured += 1
        record = TrialRecord(
            config=kernel.config_type.from_dict(trial.params),
            measurement=Measurement.from_dict(validity.outcome(trial)),
            predicted_us=number("predicted_us", trial.user_attrs["predicted_us"]),
            predicted_low_us=number("predicted_90_us", low),
            predicted_high_us=number("predicted_90_us", high),
            stale=validity.stale(trial),
            outpaced=outpaced.get(trial.number, 0.0),
            predicted_energy_mj=(
                None if energy_mj is None else number("predicted_energy_mj", energy_mj)
            ),
        )
        if record.config not in records or (records[record.config].lost and not record.lost):
            records[record.config] = record  # of repeats the first that may win
    return StudyRecord(
        problem=parse_problem(attributes["problem"]),
        kernel=attributes["kernel"],
        gpu=attributes["gpu"],
        path=attributes["path"],
        simulated=attributes["simulated"],
        environment=None if environment is None else Environment.from_dict(environment),
        space_size=number("space_size", attributes["space_size"]),
        legal_size=number("legal_size", attributes["legal_size"]),
        rejected_by_rule={
            rule: number(rule, count) for rule, count in attributes["rejected_by_rule"].items()
        },
        stopped=attributes.get("stopped", ""),
        not_compared=validity.not_compared,
        trials=tuple(records.values()),
        source=attributes.get("source", source) if again is None else again["source"],
        # An imported study holds the first of each configuration's trials alone.
        repeats=measured - len(records) + number("repeats", attributes.get("repeats", 0)),
        objective=objective,
    )
