"""What is asked of predictions on an H200, and what of it is reached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sim.evaluation.evaluate import ScoredRow
from sim.evaluation.score import Score
from sim.evaluation.splits import Split

__all__ = ["AIMS", "PREDICTOR_OF", "Aim", "Reached", "Regime", "reached"]


class Regime(Enum):
    """How much was measured on the GPU before a prediction."""

    NONE = "no kernel timings"
    FEW = "64 timings"
    ALL = "full data"


#: Who stands for a regime, by the name of its row; a regime without one is not reached.
PREDICTOR_OF: Mapping[Regime, str] = {
    Regime.NONE: "cost model",
    Regime.FEW: "calibrated, 64 timings",
    Regime.ALL: "calibrated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A figure that is asked for, by :class:`Regime` in its order; None where nothing is."""

    quantity: str
    metric: str  #: a field of :class:`Score`, or the name of another figure
    asked: tuple[float | None, float | None, float | None]
    lower: bool = False  #: at most, otherwise at least
    split: Split = Split.SHAPE  #: by which a fitted predictor is judged
    unit: str = "%"  #: "%" for shares, else what is counted


AIMS = (
    Aim(quantity="MAPE, format seen", metric="mape", asked=(0.10, 0.04, 0.03), lower=True),
    Aim(
        quantity="MAPE, format unseen",
        metric="mape",
        asked=(0.12, 0.08, 0.06),
        lower=True,
        split=Split.FORMAT,
    ),
    Aim(
        quantity="Spearman within shape, median",
        metric="spearman",
        asked=(0.88, 0.92, 0.95),
        unit="",
    ),
    Aim(quantity="top-1 of the optimum, geomean", metric="top1", asked=(0.965, 0.98, 0.988)),
    Aim(quantity="top-1 of the optimum, worst", metric="top1_worst", asked=(0.85, None, None)),
    Aim(quantity="top-8 of the optimum, geomean", metric="top8", asked=(0.99, 0.995, 0.998)),
    Aim(
        quantity="80 % dropped, winner within 1 % kept",
        metric="recall80",
        asked=(0.94, 0.98, 0.99),
    ),
    Aim(
        quantity="error of the speed-up over bf16",
        metric="speedup_error",
        asked=(0.12, 0.06, 0.05),
        lower=True,
    ),
    Aim(
        quantity="90 % lies outside the bootstrap interval of the coverage by",
        metric="coverage_gap",
        asked=(None, 0.0, 0.0),
        lower=True,
    ),
    Aim(quantity="`hybrid`, 4 measurements", metric="hybrid4", asked=(None, 0.98, 0.99)),
    Aim(quantity="`hybrid`, 8 measurements", metric="hybrid8", asked=(None, 0.993, 0.997)),
    Aim(
        quantity="memory-bound kernels, MAPE",
        metric="memory_mape",
        asked=(0.05, 0.05, 0.05),
        lower=True,
    ),
    Aim(
        quantity="million predictions a second",
        metric="pace",
        asked=(2.0, 2.0, None),
        unit="M/s",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """One aim beside what is reached, by regime; None where nothing was measured or fitted."""

    aim: Aim
    values: tuple[float | None, float | None, float | None]

    def met(self, regime: Regime) -> bool | None:
        """Whether it is good enough; None where nothing is asked or nothing reached."""
        place = list(Regime).index(regime)
        bar, value = self.aim.asked[place], self.values[place]
        if bar is None or value is None:
            return None
        return value <= bar if self.aim.lower else value >= bar

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        names = [regime.value for regime in Regime]
        return {
            "quantity": self.aim.quantity,
            "unit": self.aim.unit,
            "at_most": self.aim.lower,
            "asked": dict(zip(names, self.aim.asked, strict=True)),
            "reached": {
                name: None if value is None else float(f"{value:.6g}")
                for name, value in zip(names, self.values, strict=True)
            },
            "met": {regime.value: self.met(regime) for regime in Regime},
        }


def reached(
    rows: Sequence[ScoredRow], others: Mapping[Regime, Mapping[str, float]]
) -> list[Reached]:
    """Every aim with what the regimes' predictors reach.

    Args:
        rows: scores, those of :data:`PREDICTOR_OF` among them as far as they were judged.
        others: figures that are no field of a score, by regime and metric.
    """

    def value(aim: Aim, regime: Regime) -> float | None:
        if aim.metric in others.get(regime, {}):
            return others[regime][aim.metric]
        score = _row(rows, PREDICTOR_OF.get(regime), aim.split)
        found: float | None = None if score is None else getattr(score, aim.metric, None)
        return found

    none, few, whole = Regime
    return [
        Reached(aim=aim, values=(value(aim, none), value(aim, few), value(aim, whole)))
        for aim in AIMS
    ]


def _row(rows: Sequence[ScoredRow], name: str | None, split: Split) -> Score | None:
    """A predictor's score by a split, or its only one where nothing is fitted."""
    mine = [row for row in rows if row.predictor == name and row.split in (None, split)]
    return mine[0].score if mine else None
