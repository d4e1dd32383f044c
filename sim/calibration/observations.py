"""Measured tables as one vector, and what the model says of it at a point."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.calibration.unknowns import Machine, Unknowns
from sim.measured import MeasuredTable
from sim.model import price

__all__ = ["Observations"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

#: Step of a derivative, in log.
STEP = 0.02
#: Correlation of the model's errors on one problem: what one table tells counts for so much less.
SHARED_ERROR = 0.1


class Observations:
    """Rows of measured tables, one after another.

    Args:
        tables: at least one row in all.

    Raises:
        ValueError: nothing was measured.
    """

    def __init__(self, tables: Sequence[MeasuredTable]) -> None:
        self.tables = tuple(table for table in tables if len(table))
        if not self.tables:
            raise ValueError("nothing was measured: give at least one measured configuration")
        self.log_us: F64 = np.log(np.concatenate([one.time_us for one in self.tables]))
        lengths = [len(one) for one in self.tables]
        ends = np.cumsum(lengths).tolist()
        self.slices = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        #: (rows,) what a row counts for beside others of its table.
        self.weights: F64 = np.repeat(
            [1.0 / (1.0 + SHARED_ERROR * (length - 1)) for length in lengths], lengths
        )
        shapes = [(one.problem.kind, one.problem.shape) for one in self.tables]
        known = {shape: place for place, shape in enumerate(dict.fromkeys(shapes))}
        #: (rows,) number of the problem's shape, whatever its formats.
        self.shapes: I64 = np.repeat([known[shape] for shape in shapes], lengths)

    def __len__(self) -> int:
        return len(self.log_us)

    def predicted(self, machine: Machine, which: Sequence[int] | None = None) -> F64:
        """Log of predicted times; those of tables that are left out are 0."""
        logs = np.zeros(len(self))
        for place in range(len(self.tables)) if which is None else which:
            one = self.tables[place]
            priced = price(
                one.problem,
                one.kernel,
                one.table,
                machine.gpu,
                one.facts,
                parameters=machine.templates,
            )
            logs[self.slices[place]] = np.log(priced.time_us)
        return logs

    def jacobian(
        self, unknowns: Unknowns, logs: F64, here: F64, touched: Bool | None = None
    ) -> F64:
        """(rows, unknowns) derivatives of the predicted logs, by forward differences.

        Args:
            here: :meth:`predicted` at ``logs``.
            touched: (tables, unknowns) what to compute, the rest is 0; all by default.
        """
        found = np.zeros((len(self), len(unknowns)))
        for column, one in enumerate(unknowns.all):
            which = [
                place
                for place, users in enumerate(unknowns.users)
                if (one.shared or one.owner in users)
                and (touched is None or touched[place, column])
            ]
            if not which:
                continue
            moved = logs.copy()
            moved[column] += STEP
            there = self.predicted(unknowns.machine(moved), which)
            for place in which:
                rows = self.slices[place]
                found[rows, column] = (there[rows] - here[rows]) / STEP
        return found

    def touched(self, jacobian: F64) -> Bool:
        """(tables, unknowns) which unknowns move which tables' times at all."""
        return np.stack([np.any(jacobian[rows], axis=0) for rows in self.slices])
