"""Rivals and bounds: what the cost model is set beside, on the same rows."""

from sim.evaluation.baselines.learned import BoostedTrees, NearestCopy
from sim.evaluation.baselines.matmul_heuristics import NvMatmulHeuristics, installed
from sim.evaluation.baselines.own import CostModelAsItIs, Roofline
from sim.evaluation.baselines.published import PUBLISHED
from sim.evaluation.baselines.reference import NoiseFloor, Oracle, RandomChoice
from sim.evaluation.predictor import Predictor

__all__ = ["default_predictors"]


def default_predictors() -> tuple[Predictor, ...]:
    """All of them, the workbench's own first; an optional package's where it is installed."""
    return (
        CostModelAsItIs(),
        CostModelAsItIs(compiled=False),
        Roofline(),
        *PUBLISHED,
        *((NvMatmulHeuristics(),) if installed() else ()),
        NearestCopy(),
        BoostedTrees(),
        RandomChoice(),
        NoiseFloor(),
        Oracle(),
    )
