"""Measured tables from a run: what its studies timed, as the cost model is judged by it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sim.evaluation.splits import shape_name
from sim.foretold import Foretold
from sim.measured import MeasuredTable
from tiles.intake import read_bounded, shown
from tiles.kernels import ConfigTable
from tiles.problems import parse_problem
from tuning.family import family
from tuning.records import Run, StudyRecord, TrialRecord

__all__ = ["IN_VIEW_FILE", "MeasuredRun", "measured_run"]

#: Of a run folder: shapes that constants of the cost model were set on, a line each, as
#: ``shape_name`` has them; lines that begin with # say how that is known.
IN_VIEW_FILE = "in-view.txt"
MAX_BYTES = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A run's correct timings as tables, and what could not become a row of one."""

    tables: tuple[MeasuredTable, ...]
    left_out: tuple[str, ...]  #: a line a study with failed or stale trials, or none correct
    foretold: tuple[Foretold, ...] = ()  #: what was predicted before measuring, table by table


def measured_run(run: Run) -> MeasuredRun:
    """Turn every study of a run into a table.

    Rows are in the order of the configurations' fields: the order of measuring may be the cost
    model's.  A configuration that failed has no time and is left out, and so is one whose result
    is stale; both are told.

    Studies of the shapes that the folder's :data:`IN_VIEW_FILE` names are in view.

    Raises:
        ValueError: the run is simulated (its times are the cost model's), nothing in it is
            correct, or it has no study of a shape that is named.
    """
    if any(study.simulated for study in run.studies):
        raise ValueError(
            f"{run.folder} is a simulated sweep, its times are the cost model's: "
            "give one that was measured"
        )
    tables: list[MeasuredTable] = []
    foretold: list[Foretold] = []
    left_out: list[str] = []
    for study in run.studies:
        kept = [t for t in study.trials if t.measurement.time_us is not None and not t.stale]
        dropped = Counter(
            "stale" if trial.stale else trial.measurement.status.value
            for trial in study.trials
            if trial.stale or trial.measurement.time_us is None
        )
        if dropped:
            counts = ", ".join(f"{count} {what}" for what, count in sorted(dropped.items()))
            left_out.append(f"{study.problem} with {study.kernel}: {counts}")
        if kept:
            kept = sorted(kept, key=lambda trial: tuple(trial.config.to_dict().values()))
            tables.append(_table(run, study, kept))
            foretold.append(_foretold(kept))
    if not tables:
        raise ValueError(f"{run.folder} holds no correct measurement: finish its sweep first")
    marked = _in_view(run)
    tables = [replace(one, in_view=shape_name(one.problem) in marked) for one in tables]
    return MeasuredRun(tables=tuple(tables), left_out=tuple(left_out), foretold=tuple(foretold))


def _in_view(run: Run) -> set[str]:
    """The shapes that the folder marks; none without the file."""
    path = run.folder / IN_VIEW_FILE
    if not path.exists():
        return set()
    try:
        text = read_bounded(path, MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text in UTF-8: bring back a copy") from error
    lines = [line.strip() for line in text.splitlines()]
    named = {line for line in lines if line and not line.startswith("#")}
    planned = {shape_name(parse_problem(one["problem"])) for one in run.plan["studies"]}
    if unknown := sorted(named - planned):
        raise ValueError(
            f"{path}: {shown(unknown[0])} is no shape of the run: write one of "
            f"{', '.join(sorted(planned))}"
        )
    return named


def _foretold(kept: list[TrialRecord]) -> Foretold:
    return Foretold(
        time_us=np.array([one.predicted_us for one in kept], dtype=np.float64),
        low_us=np.array([one.predicted_low_us for one in kept], dtype=np.float64),
        high_us=np.array([one.predicted_high_us for one in kept], dtype=np.float64),
    )


def _table(run: Run, study: StudyRecord, kept: list[TrialRecord]) -> MeasuredTable:
    measured = [trial.measurement for trial in kept]
    clocks, powers = (
        np.array(
            [
                np.nan
                if one.conditions is None or not getattr(one.conditions, sensor)
                else float(np.median(getattr(one.conditions, sensor)))
                for one in measured
            ]
        )
        for sensor in ("sm_clock_mhz", "power_w")
    )
    return MeasuredTable(
        problem=study.problem,
        kernel=family(study.kernel),
        gpu=study.gpu,
        table=ConfigTable.of([trial.config for trial in kept]),
        time_us=np.array([one.time_us for one in measured], dtype=np.float64),
        iqr_us=np.array([np.nan if one.iqr_us is None else one.iqr_us for one in measured]),
        # Who failed or grew stale was tried all the same.
        whole_space=len({trial.config for trial in study.trials}) == study.legal_size,
        facts={row: one.facts for row, one in enumerate(measured) if one.facts is not None},
        cold=run.plan["cache"] == "cold",
        source=study.source,
        environment=_environment(study),
        clock_mhz=None if np.isnan(clocks).all() else clocks,
        power_w=None if np.isnan(powers).all() else powers,
    )


def _environment(study: StudyRecord) -> Mapping[str, str]:
    if study.environment is None:
        return {}
    found = study.environment
    return {"device": found.gpu, "driver": found.driver, **found.versions}
