"""Judging predictions by measured times: splits, metrics, baselines.  Nothing here predicts."""

from sim.evaluation.baselines import default_predictors
from sim.evaluation.evaluate import ScoredRow, SkippedSplit, answers_of, evaluate
from sim.evaluation.predictor import Kind, Predicted, Predictor
from sim.evaluation.score import Score, score
from sim.evaluation.splits import Fold, Split, folds, parse_split

__all__ = [
    "Fold",
    "Kind",
    "Predicted",
    "Predictor",
    "Score",
    "ScoredRow",
    "SkippedSplit",
    "Split",
    "answers_of",
    "default_predictors",
    "evaluate",
    "folds",
    "parse_split",
    "score",
]
