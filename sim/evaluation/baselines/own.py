"""The workbench's own answers: its cost model, and the roofline that stands in for one."""

from collections.abc import Sequence

from sim.evaluation.predictor import Kind, Predicted
from sim.gpu import Gpu
from sim.measured import MeasuredTable
from sim.model import price, unpriced
from sim.roofline import roofline

__all__ = ["CostModelAsItIs", "Roofline"]


class CostModelAsItIs:
    """What ``workbench predict`` tells: nothing is fitted to the tables at hand.

    Args:
        compiled: whether the model is told what the compiler made of a row, where that was kept.
    """

    kind = Kind.FORMULA

    def __init__(self, *, compiled: bool = True) -> None:
        self.name = "cost model" if compiled else "cost model, nothing compiled"
        self._compiled = compiled

    def fit(self, train: Sequence[MeasuredTable], gpu: Gpu) -> None:
        """Nothing is fitted."""

    def predict(self, table: MeasuredTable, gpu: Gpu) -> Predicted | None:
        """Times with their intervals; None for a family that nothing prices."""
        if unpriced(table.problem, table.kernel) is not None:
            return None
        facts = table.facts if self._compiled else {}
        priced = price(table.problem, table.kernel, table.table, gpu, facts)
        return Predicted(time_us=priced.time_us, low_us=priced.low_us, high_us=priced.high_us)


class Roofline:
    """The least time that the problem takes, the same for every configuration."""

    name = "roofline"
    kind = Kind.FORMULA

    def fit(self, train: Sequence[MeasuredTable], gpu: Gpu) -> None:
        """Nothing is fitted."""

    def predict(self, table: MeasuredTable, gpu: Gpu) -> Predicted:
        """One time for all rows, without an interval: a bound has none."""
        return Predicted(time_us=roofline(table.problem, table.kernel, table.table, gpu).time_us)
