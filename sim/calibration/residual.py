"""What the physics leaves: a small learned correction of log time.

Ridge regression below 100 rows, its strength chosen by closed-form leave-one-out; boosted trees
above, grown by scikit-learn and kept as arrays.  Both are clipped: to the size of the corrections
that were seen, and towards none outside the box of numbers that were seen.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.calibration.trees import Trees

__all__ = ["TREES_FROM", "Residual", "fit_residual"]

F64 = NDArray[np.float64]

#: Rows from which on trees are grown.
TREES_FROM = 100
#: Strengths that leave-one-out chooses from, in rows' worth of evidence for no correction.
STRENGTHS = tuple(10.0 ** np.arange(-1, 4.01, 0.5))
TREE_COUNT, TREE_DEPTH, TREE_RATE, LEAF_ROWS = 200, 3, 0.06, 5
#: Errors beyond this count as this much: a wild timing teaches nothing.
WORST = 0.5
#: No correction exceeds this quantile of the errors' sizes.
CLIP_QUANTILE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """A fitted correction; ``names`` are the features that it was fitted to, in order."""

    names: tuple[str, ...]
    low: F64  #: (features,) smallest number seen
    high: F64
    scale: F64  #: (features,) standard deviation seen, 1 where nothing varied
    clip: float  #: largest correction, in log
    mean: F64  #: (features,)
    weights: F64  #: (features,) of the ridge regression, on standardised numbers; empty: trees
    intercept: float
    trees: Trees | None

    def correction(self, rows: F64) -> F64:
        """(rows,) log of true over predicted time, as far as it was learned.

        Args:
            rows: (rows, features).
        """
        inside = np.clip(rows, self.low, self.high)
        if self.trees is not None:
            raw = self.trees.predict(inside)
        else:
            raw = self.intercept + (inside - self.mean) / self.scale @ self.weights
        beyond = np.max(np.abs(rows - inside) / self.scale, axis=1, initial=0.0)
        answer: F64 = np.clip(raw, -self.clip, self.clip) * np.exp(-beyond)
        return answer


def _ridge(standard: F64, errors: F64) -> tuple[F64, float]:
    """Weights and intercept of the strength whose closed-form leave-one-out error is least."""
    intercept = float(np.mean(errors))
    centred = errors - intercept
    u, s, vt = np.linalg.svd(standard, full_matrices=False)
    projected = u.T @ centred
    best, least = np.zeros(standard.shape[1]), np.inf
    for strength in STRENGTHS:
        shrunk = s**2 / (s**2 + strength)
        # The intercept is refitted without the row, too: 1/n of the leverage is its.
        leverage = (u**2) @ shrunk + 1.0 / len(errors)
        left = (centred - u @ (shrunk * projected)) / np.maximum(1.0 - leverage, 1e-6)
        error = float(np.mean(np.abs(left)))
        if error < least:
            least = error
            best = vt.T @ (s / (s**2 + strength) * projected)
    return best, intercept


def _grow(rows: F64, errors: F64) -> Trees:
    from sklearn.ensemble import GradientBoostingRegressor  # 2.5 s, and only where one fits

    model = GradientBoostingRegressor(
        loss="squared_error",
        n_estimators=TREE_COUNT,
        max_depth=TREE_DEPTH,
        learning_rate=TREE_RATE,
        min_samples_leaf=LEAF_ROWS,
        subsample=0.7,
        max_features=0.5,
        random_state=0,
    )
    model.fit(rows, errors)
    return Trees.of_sklearn(model)


def fit_residual(names: tuple[str, ...], rows: F64, errors: F64) -> Residual:
    """Learn errors of the physics.

    Args:
        rows: (rows, features).
        errors: (rows,) log of measured over predicted.
    """
    bounded = np.clip(errors, -WORST, WORST)
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    trees = _grow(rows, bounded) if len(rows) >= TREES_FROM else None
    weights, intercept = np.zeros(0), 0.0
    if trees is None:
        weights, intercept = _ridge((rows - mean) / scale, bounded)
    return Residual(
        names=names,
        low=rows.min(axis=0),
        high=rows.max(axis=0),
        scale=scale,
        clip=float(np.quantile(np.abs(bounded), CLIP_QUANTILE)),
        mean=mean,
        weights=weights,
        intercept=intercept,
        trees=trees,
    )
