"""From measured tables to a calibration: fit, residual behind a gate, conformal intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.calibration.features import features
from sim.calibration.fit import Fit, fit_robust, refit_without
from sim.calibration.intervals import elements_of, extents_of, with_intervals
from sim.calibration.observations import Observations
from sim.calibration.record import Calibration, FamilyCalibration
from sim.calibration.residual import Residual, fit_residual
from sim.calibration.unknowns import RATES, Unknowns
from sim.gpu import Gpu
from sim.measured import MeasuredTable
from sim.model import price
from sim.prediction import PricedTable

__all__ = ["Learned", "learn"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

#: Parts that the shapes are dealt into when they are left out in turn.
MOST_FOLDS = 10
#: Shapes and rows of a family below which no residual is tried.
FEWEST_SHAPES, FEWEST_ROWS = 3, 20
#: Share of the physics' error that a residual must take away on shapes that it has not seen, and
#: standard errors of the gain between shapes that it must exceed.
LEAST_GAIN, LEAST_SIGMAS = 0.02, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A calibration with the fit that it came from."""

    calibration: Calibration
    fit: Fit
    unknowns: Unknowns
    held_out: F64  #: (rows,) log of measured over predicted by fits that had not seen the shape


def learn(
    tables: Sequence[MeasuredTable],
    gpu: Gpu,
    *,
    figures: Mapping[str, float] | None = None,
    sigmas: Mapping[str, float] | None = None,
    title: str = "calibrated",
    residual: bool = True,
) -> Learned:
    """Fit the cost model to measured times of one GPU.

    Args:
        tables: of families that :func:`sim.price` prices with template parameters or without.
        gpu: as its file says.
        figures: what microbenchmarks measured, by figure; the priors' medians.
        sigmas: how far such figures may be off, standard deviations in log.
        title: one line for :attr:`Calibration.title`.
        residual: whether a residual is tried at all.

    Raises:
        ValueError: nothing was measured.
    """
    known = dict(figures or {})
    start = Calibration(base=gpu, figures=known, templates={}, families={}, title=title)
    observations = Observations(tables)
    pairs = [(one.problem, one.kernel) for one in observations.tables]
    unknowns = Unknowns(start.gpu, pairs, sigmas)
    prior_errors = observations.log_us - observations.predicted(
        unknowns.machine(np.zeros(len(unknowns)))
    )
    fit = fit_robust(observations, unknowns)
    priced = [
        price(
            one.problem,
            one.kernel,
            one.table,
            fit.machine.gpu,
            one.facts,
            parameters=fit.machine.templates,
        )
        for one in observations.tables
    ]
    owners = np.repeat([one.kernel.name for one in observations.tables], [len(p) for p in priced])
    folds = observations.shapes % MOST_FOLDS
    left_out = {
        int(fold): refit_without(fit, observations, unknowns.sigmas, folds == fold)
        for fold in np.unique(folds)
        if not (folds == fold).all()
    }
    held_out = fit.errors.copy()
    for fold, errors in left_out.items():
        held_out[folds == fold] = errors[folds == fold]
    families: dict[str, FamilyCalibration] = {}
    for name in dict.fromkeys(owners.tolist()):
        mine = owners == name
        head, held, tried = (
            _residual(name, observations, priced, mine, folds, left_out, fit, gpu)
            if residual and left_out
            else (None, held_out[mine], None)
        )
        families[name] = _family(
            name,
            observations,
            priced,
            head=head,
            prior_error=_size(prior_errors[mine]),
            physics_error=_size(held_out[mine]),
            residual_error=tried,
        )
        held_out[mine] = held

    if left_out:
        families = with_intervals(families, observations, priced, held_out, folds)
    return Learned(
        calibration=Calibration(
            base=gpu,
            figures=known | _fitted_figures(unknowns, fit),
            templates=fit.machine.templates,
            families=families,
            title=title,
        ),
        fit=fit,
        unknowns=unknowns,
        held_out=held_out,
    )


def _size(errors: F64) -> float:
    return float(np.mean(np.abs(errors)))


def _fitted_figures(unknowns: Unknowns, fit: Fit) -> dict[str, float]:
    """The machine's figures at the fit, those that did not move left out."""
    found: dict[str, float] = {}
    for one, log in zip(unknowns.all, fit.logs.tolist(), strict=True):
        if not one.shared or log == 0.0:
            continue
        if one.owner == RATES:
            found[f"{RATES}.{one.name}"] = fit.machine.gpu.tensor_flop_per_clk[one.name]
        else:
            found[one.name] = float(getattr(fit.machine.gpu, one.name))
    return found


def _rows_of(name: str, observations: Observations, priced: Sequence[PricedTable]) -> list[int]:
    return [i for i, one in enumerate(observations.tables) if one.kernel.name == name and priced[i]]


def _residual(
    name: str,
    observations: Observations,
    priced: Sequence[PricedTable],
    mine: Bool,
    folds: I64,
    left_out: Mapping[int, F64],
    fit: Fit,
    gpu: Gpu,
) -> tuple[Residual | None, F64, float | None]:
    """A family's residual if it helps unseen shapes, held-out errors, and the error with it."""
    physics = np.zeros(len(observations))
    for fold, errors in left_out.items():
        physics[folds == fold] = errors[folds == fold]
    held = physics[mine]
    shapes = np.unique(observations.shapes[mine])
    if len(shapes) < FEWEST_SHAPES or mine.sum() < FEWEST_ROWS:
        return None, held, None
    stacked = [features(priced[i], gpu.sm_count) for i in _rows_of(name, observations, priced)]
    names = stacked[0][0]
    numbers = np.concatenate([one for _, one in stacked])
    corrected = held.copy()
    for fold, errors in left_out.items():
        unseen = folds[mine] == fold
        if not unseen.any():
            continue
        if unseen.all():
            return None, held, None
        head = fit_residual(names, numbers[~unseen], errors[mine][~unseen])
        corrected[unseen] -= head.correction(numbers[unseen])
    error = _size(corrected)
    gains = np.abs(held) - np.abs(corrected)
    by_shape = np.array([np.mean(gains[observations.shapes[mine] == shape]) for shape in shapes])
    chance = float(np.std(by_shape, ddof=1) / np.sqrt(len(shapes)))
    if error > (1 - LEAST_GAIN) * _size(held) or float(np.mean(by_shape)) < LEAST_SIGMAS * chance:
        return None, held, error
    return fit_residual(names, numbers, fit.errors[mine]), corrected, error


def _family(
    name: str,
    observations: Observations,
    priced: Sequence[PricedTable],
    *,
    head: Residual | None,
    prior_error: float,
    physics_error: float,
    residual_error: float | None,
) -> FamilyCalibration:
    places = _rows_of(name, observations, priced)
    problems = [priced[place].problem for place in places]
    return FamilyCalibration(
        rows=sum(len(priced[place]) for place in places),
        shapes=len({one.shape for one in problems}),
        extents=extents_of(problems),
        elements=elements_of(problems),
        residual=head,
        widths={},
        prior_error=prior_error,
        physics_error=physics_error,
        residual_error=residual_error,
    )
