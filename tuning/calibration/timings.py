"""Measured tables of a run folder's studies: what a fit takes."""

import numpy as np

from sim.measured import MeasuredTable
from tiles.kernels import ConfigTable
from tuning.family import family
from tuning.records import Run

__all__ = ["measured_tables"]


def measured_tables(run: Run) -> list[MeasuredTable]:
    """The right and current answers of every study, in the run's order."""
    tables = []
    for study in run.studies:
        trials = [t for t in study.trials if t.measurement.time_us is not None and not t.stale]
        if not trials:
            continue
        tables.append(
            MeasuredTable(
                problem=study.problem,
                kernel=family(study.kernel),
                gpu=study.gpu,
                table=ConfigTable.of([trial.config for trial in trials]),
                time_us=np.array([trial.measurement.time_us for trial in trials], np.float64),
                iqr_us=np.array([trial.measurement.iqr_us or 0.0 for trial in trials]),
                whole_space=len(trials) == study.legal_size,
                facts={
                    row: trial.measurement.facts
                    for row, trial in enumerate(trials)
                    if trial.measurement.facts is not None
                },
            )
        )
    return tables
