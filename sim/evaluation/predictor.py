"""What is judged: something that tells times, with or without having seen others."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu
from sim.measured import MeasuredTable

__all__ = ["Kind", "Predicted", "Predictor"]

F64 = NDArray[np.float64]


class Kind(Enum):
    """What a predictor claims, and what it needs."""

    FORMULA = "formula"  #: times, from the problem, the configuration and the GPU's figures alone
    ORDER = "order"  #: scores that order configurations and are no times; nothing is fitted
    FITTED = "fitted"  #: times, learned from measured ones: judged on what is held out
    REFERENCE = "reference"  #: made of the very times it is judged by: a bound, no rival


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Answers for the rows of one table."""

    time_us: F64  #: (rows,) positive; scores, the smaller the faster, where the kind is ORDER
    low_us: F64 | None = None  #: lower ends of 90 % intervals, where there are any
    high_us: F64 | None = None  #: upper ends


class Predictor(Protocol):
    """One row of the evaluation."""

    @property
    def name(self) -> str:
        """As the tables call it."""

    @property
    def kind(self) -> Kind:
        """What it claims."""

    def fit(self, train: Sequence[MeasuredTable], gpu: Gpu) -> None:
        """Learn from measured tables, forgetting what was learned before.

        Formulas and orders do nothing here.  Fitting twice with the same tables gives the same.
        """

    def predict(self, table: MeasuredTable, gpu: Gpu) -> Predicted | None:
        """Tell times for a table's rows, without a look at its own.

        Whatever is judged gets :meth:`MeasuredTable.blinded`; only a reference gets the times.

        Returns:
            None where it has nothing to say about such a problem or family.
        """
