"""The robust fit: least absolute log errors with log-normal priors on every unknown.

The objective is ``sum_i w_i |r_i| / b + 1/2 sum_j (phi_j / sigma_j)^2``, with ``r`` the log of
measured over predicted, ``phi`` the logs of values over their priors' medians and ``b`` the mean
absolute error, so that the data's weight falls where the model misses by more.  Gauss-Newton steps
on the linearised model, solved by iteratively reweighted least squares: the absolute value lets a
tenth of the timings be wild without moving the rest.

Derivatives are differences of prices, which is where the time goes.  So they are taken where the
fit begins and where it seems to end, and followed by secants in between.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.calibration.observations import Observations
from sim.calibration.unknowns import Machine, Unknowns

__all__ = ["Fit", "fit_robust", "refit_without"]

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

MAX_STEPS = 20
#: A step shorter than this in every log is the last.
SMALL_STEP = 2e-3
#: Errors below this count squared; also the least mean error, that of repeated measurements.
LEAST_ERROR = 0.005
REWEIGHTINGS = 20
HALVINGS = 5
#: Of the objective, a log of probability: a step that raises that by less is the last.
LEAST_GAIN = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Where the fit ended, and the linear model around it."""

    logs: F64  #: (unknowns,) log of fitted value over prior median
    spreads: F64  #: (unknowns,) standard deviation of that log that data and prior leave
    machine: Machine
    errors: F64  #: (rows,) log of measured over predicted
    jacobian: F64  #: (rows, unknowns)
    steps: int
    converged: bool


def _scale(errors: F64, weights: F64) -> float:
    return max(LEAST_ERROR, float(np.average(np.abs(errors), weights=weights)))


def _objective(errors: F64, weights: F64, scale: float, logs: F64, sigmas: F64) -> float:
    smooth = np.sqrt(errors**2 + LEAST_ERROR**2)
    return float(np.sum(weights * smooth) / scale + 0.5 * np.sum((logs / sigmas) ** 2))


def _linear_step(
    jacobian: F64, errors: F64, weights: F64, scale: float, logs: F64, sigmas: F64
) -> tuple[F64, F64]:
    """The step to the linearised objective's minimum, and the Hessian's inverse there."""
    precision = np.diag(1.0 / sigmas**2)
    step = np.zeros_like(logs)
    left = errors
    inverse: F64 = np.diag(sigmas**2)
    for _ in range(REWEIGHTINGS):
        curvature = weights / (scale * np.sqrt(left**2 + LEAST_ERROR**2))
        weighted = jacobian * curvature[:, None]
        inverse = np.asarray(np.linalg.inv(jacobian.T @ weighted + precision), np.float64)
        new = inverse @ (weighted.T @ errors - logs / sigmas**2)
        moved = float(np.max(np.abs(new - step), initial=0.0))
        step, left = new, errors - jacobian @ new
        if moved < SMALL_STEP / 10:
            break
    return step, inverse


def _secant(jacobian: F64, moved: F64, change: F64) -> F64:
    """The nearest derivatives by which a step gives the change that it gave.

    What is zero stays zero (Schubert's form of Broyden's update: row by row, over what a row
    depends on).

    Args:
        jacobian: (rows, unknowns) before the step.
        moved: (unknowns,) the step.
        change: (rows,) of the predicted logs.
    """
    along = np.where(jacobian != 0.0, moved, 0.0)
    length = np.sum(along**2, axis=1)
    missed = (change - jacobian @ moved) / np.where(length > 0, length, 1.0)
    found: F64 = jacobian + missed[:, None] * along
    return found


def fit_robust(observations: Observations, unknowns: Unknowns) -> Fit:
    """Fit the unknowns to measured times.

    Args:
        observations: what was measured.
        unknowns: made of the observations' tables, in their order.
    """
    sigmas, weights = unknowns.sigmas, observations.weights
    logs = np.zeros(len(unknowns))
    predicted = observations.predicted(unknowns.machine(logs))
    errors = observations.log_us - predicted
    jacobian = observations.jacobian(unknowns, logs, predicted)
    # Half of the unknowns touch none of the data, and others few tables, wherever they are.
    touched = observations.touched(jacobian)
    exact, steps, converged = True, 0, False
    while True:
        scale = _scale(errors, weights)
        step, inverse = _linear_step(jacobian, errors, weights, scale, logs, sigmas)
        if converged or (exact and steps == MAX_STEPS):
            break
        before = _objective(errors, weights, scale, logs, sigmas)
        ended = True  # where no step of any length helps: the minimum, or a kink in it
        along_exact = exact
        for halving in range(HALVINGS if steps < MAX_STEPS else 0):
            moved = logs + step / 2**halving
            there = observations.predicted(unknowns.machine(moved))
            now = _objective(observations.log_us - there, weights, scale, moved, sigmas)
            if now < before:
                farthest = float(np.max(np.abs(moved - logs)))
                ended = farthest < SMALL_STEP or before - now < LEAST_GAIN
                jacobian = _secant(jacobian, moved - logs, there - predicted)
                logs, predicted, errors = moved, there, observations.log_us - there
                steps, exact = steps + 1, False
                break
        converged = ended and along_exact
        if not converged and (ended or steps == MAX_STEPS):
            jacobian = observations.jacobian(unknowns, logs, predicted, touched)
            exact = True
    return Fit(
        logs=logs,
        spreads=np.sqrt(np.diag(inverse)),
        machine=unknowns.machine(logs),
        errors=errors,
        jacobian=jacobian,
        steps=steps,
        converged=converged,
    )


def refit_without(fit: Fit, observations: Observations, sigmas: F64, left_out: Bool) -> F64:
    """Errors of all rows as a fit without some of them would have, on the linear model.

    It prices nothing, so that cross-validation over tens of shapes costs less than one fit.

    Args:
        left_out: (rows,) which rows the fit must not see.
    """
    kept = ~left_out
    weights = observations.weights[kept]
    step, _ = _linear_step(
        fit.jacobian[kept],
        fit.errors[kept],
        weights,
        _scale(fit.errors[kept], weights),
        fit.logs,
        sigmas,
    )
    errors: F64 = fit.errors - fit.jacobian @ step
    return errors
