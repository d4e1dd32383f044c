"""What ``workbench evaluate`` found, and its JSON form."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.evaluation import ScoredRow, SkippedSplit
from sim.evaluation.aims import Reached
from sim.evaluation.baselines.matmul_heuristics import MISSING, NvMatmulHeuristics
from sim.evaluation.frozen import FrozenPart
from sim.evaluation.residuals import GroupError, Slope
from sim.evaluation.score import Score

if TYPE_CHECKING:
    from tuning.data_sets import DataSet
    from tuning.searched import Searched

__all__ = ["EVALUATION_SCHEMA", "Evaluation"]

EVALUATION_SCHEMA = "tile-workbench/evaluation/1"
#: Rivals of packages that the workbench does not depend on, and what is said where one is missing.
OPTIONAL = {NvMatmulHeuristics.name: MISSING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What ``workbench evaluate`` found.  Predicted times are never listed beside measured ones."""

    gpu: str
    sets: "tuple[DataSet, ...]"
    rows: tuple[ScoredRow, ...]
    skipped: tuple[SkippedSplit, ...]
    parts: tuple[tuple[str, Score], ...]  #: the cost model by family and format
    in_view: tuple[tuple[str, Score], ...]  #: the cost model on sets that it was made with
    searches: "tuple[Searched, ...]"
    bindings: tuple[GroupError, ...]
    instructions: tuple[GroupError, ...]
    slopes: tuple[Slope, ...]
    frozen: tuple[FrozenPart, ...]  #: on sets that were measured after their predictions
    reached: tuple[Reached, ...]
    pace: tuple[tuple[str, float], ...]  #: predictions a second on this machine, by predictor
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping; all but stale, pace and seconds is the same on every machine."""
        from dataclasses import asdict

        def rounded(value: Any) -> Any:
            if isinstance(value, dict):
                return {str(key): rounded(one) for key, one in value.items()}
            return float(f"{value:.6g}") if isinstance(value, float) else value

        return {
            "schema": EVALUATION_SCHEMA,
            "gpu": self.gpu,
            "sets": [
                {
                    "path": one.path.as_posix(),
                    "tables": len(one.tables),
                    "rows": sum(map(len, one.tables)),
                    "judged": sum(len(t) for t in one.tables if t.cold and not t.in_view),
                    "chosen_by_predictions": bool(one.foretold),
                    "left_out": list(one.left_out),
                }
                for one in self.sets
            ],
            "stale": [f"{one.path.as_posix()}: {line}" for one in self.sets for line in one.stale],
            "scores": [
                {
                    "predictor": row.predictor,
                    "kind": row.kind.value,
                    "split": None if row.split is None else row.split.value,
                    **row.score.to_dict(),
                }
                for row in self.rows
            ],
            "skipped": {one.split.value: one.reason for one in self.skipped},
            "not_run": {
                name: why
                for name, why in OPTIONAL.items()
                if name not in {row.predictor for row in self.rows}
            },
            "cost_model_by_part": {name: one.to_dict() for name, one in self.parts},
            "cost_model_in_view": {name: one.to_dict() for name, one in self.in_view},
            "searches": [
                {
                    "strategy": one.strategy.value,
                    "predictor": one.predictor,
                    "tables": one.tables,
                    "seeds": one.seeds,
                    "shares": rounded(one.shares),
                    "worst": rounded(one.worst),
                }
                for one in self.searches
            ],
            "errors_by_binding": [rounded(asdict(one)) for one in self.bindings],
            "errors_by_instruction": [rounded(asdict(one)) for one in self.instructions],
            "slopes": [rounded(asdict(one)) for one in self.slopes],
            "frozen": [rounded(asdict(one)) for one in self.frozen],
            "aims": [one.to_dict() for one in self.reached],
            "pace": {name: float(f"{value:.3g}") for name, value in self.pace},
            "seconds": round(self.seconds, 1),
        }
