"""The winner of every study of a run, as a table."""

from collections.abc import Sequence
from typing import Any

from tuning import StudyRecord, TrialRecord
from tuning.objective import Objective
from workbench.reporting.table import Column, number, table

__all__ = ["winner_table"]


def winner_table(studies: Sequence[StudyRecord], simulated: bool) -> str:
    """Winners of studies that were all simulated, or all measured."""
    word = "predicted" if simulated else "measured"
    own = (
        []
        if simulated
        else [Column("measured time, us", "number"), Column("measured IQR, us", "number")]
    )
    by_energy = any(study.objective is Objective.ENERGY for study in studies)
    energies = []
    if by_energy:
        energies = [] if simulated else [Column("measured energy, mJ", "number")]
        energies.append(Column("predicted energy, mJ", "number"))
    columns = [
        Column("problem"),
        Column("kernel"),
        Column("path"),
        *own,
        Column("predicted time, us", "number"),
        Column("predicted interval, us", "number"),
        *energies,
        Column(f"{word} TFLOP/s", "number"),
        Column(f"{word} GB/s", "number"),
        Column("error / bound", "number"),
        Column("configuration", "code"),
    ]
    rows: list[list[Any]] = []
    for study in studies:
        best = study.best
        if best is None or best.measurement.time_us is None:
            continue
        # In a simulated run the "time" is the prediction, so it stands in that column alone.
        time_us = best.predicted_us if simulated else best.measurement.time_us
        flops = study.problem.flops
        accuracy = best.measurement.accuracy
        measured = (
            [] if simulated else [number(best.measurement.time_us), number(best.measurement.iqr_us)]
        )
        rows.append(
            [
                study.problem,
                study.kernel,
                study.path,
                *measured,
                number(best.predicted_us),
                f"{number(best.predicted_low_us)} – {number(best.predicted_high_us)}",
                *(_energies(best, simulated) if by_energy else ()),
                number(flops / time_us / 1e6) if flops else None,
                number(study.problem.min_bytes / time_us / 1e3),
                None if accuracy is None else number(accuracy.max_error_over_bound, 2),
                best.config,
            ]
        )
    return table(columns, rows, cards=True)


def _energies(best: TrialRecord, simulated: bool) -> list[str | None]:
    energy = best.measurement.energy
    measured = [] if simulated else [number(None if energy is None else energy.energy_mj)]
    return [*measured, number(best.predicted_energy_mj)]
