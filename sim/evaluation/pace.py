"""How fast predictions are made."""

import time

import numpy as np

from sim.evaluation.predictor import Predictor
from sim.gpu import Gpu
from sim.measured import MeasuredTable

__all__ = ["predictions_per_second"]

#: Rows of the table that is predicted: enough that a call's own cost does not count.
ROWS = 20_000
TURNS = 3


def predictions_per_second(predictor: Predictor, table: MeasuredTable, gpu: Gpu) -> float | None:
    """Rows a second on this machine, the best of a few turns; None where it has no answer.

    The table's rows are repeated to :data:`ROWS`, without what a compiler made of them: looking
    that up costs more than predicting.
    """
    long = MeasuredTable(
        problem=table.problem,
        kernel=table.kernel,
        gpu=table.gpu,
        table=table.table.take(np.resize(np.arange(len(table)), ROWS)),
        time_us=np.ones(ROWS),
        iqr_us=np.full(ROWS, np.nan),
        whole_space=False,
    )
    best = np.inf
    for _ in range(TURNS):
        begun = time.perf_counter()
        if predictor.predict(long, gpu) is None:
            return None
        best = min(best, time.perf_counter() - begun)
    return ROWS / best
