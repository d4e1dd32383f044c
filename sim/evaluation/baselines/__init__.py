"""Rivals and bounds: what the cost model is set beside, on the same rows."""

from sim.evaluation.baselines.learned import BoostedTrees, NearestCopy
from sim.evaluation.baselines.own import CostModelAsItIs, Roofline
from sim.evaluation.baselines.published import PUBLISHED
from sim.evaluation.baselines.reference import NoiseFloor, Oracle, RandomChoice
from sim.evaluation.calibrated import CalibratedModel
from sim.evaluation.predictor import Predictor

__all__ = ["default_predictors"]


def default_predictors() -> tuple[Predictor, ...]:
    """All of them, the workbench's own first."""
    return (
        CostModelAsItIs(),
        CostModelAsItIs(compiled=False),
        CalibratedModel(64),
        CalibratedModel(),
        Roofline(),
        *PUBLISHED,
        NearestCopy(),
        BoostedTrees(),
        RandomChoice(),
        NoiseFloor(),
        Oracle(),
    )
