"""Rivals and bounds: what the cost model is set beside, on the same rows."""

from sim.evaluation.baselines.learned import BoostedTrees, NearestCopy
from sim.evaluation.baselines.matmul_heuristics import NvMatmulHeuristics, installed
from sim.evaluation.baselines.own import CostModelAsItIs, Roofline
from sim.evaluation.baselines.published import PUBLISHED
from sim.evaluation.baselines.reference import NoiseFloor, Oracle, RandomChoice
from sim.evaluation.calibrated import CalibratedModel
from sim.evaluation.predictor import Predictor

__all__ = ["default_predictors"]


def default_predictors(*, calibrated: bool = False) -> tuple[Predictor, ...]:
    """All of them, the workbench's own first; those of an optional package where it is installed.

    Args:
        calibrated: also what a calibration would learn, a fit of up to half a minute a fold.
    """
    return (
        CostModelAsItIs(),
        CostModelAsItIs(compiled=False),
        *((CalibratedModel(64), CalibratedModel()) if calibrated else ()),
        Roofline(),
        *PUBLISHED,
        *((NvMatmulHeuristics(),) if installed() else ()),
        NearestCopy(),
        BoostedTrees(),
        RandomChoice(),
        NoiseFloor(),
        Oracle(),
    )
