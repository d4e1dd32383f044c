"""Ridge, trees and conformal widths, each beside a slow twin."""

import math

import numpy as np
import pytest

from sim.calibration.conformal import conformal_width, stratum_widths, student_width, width_of
from sim.calibration.residual import STRENGTHS, TREES_FROM, Residual, fit_residual

NAMES = ("a", "b", "c")


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)) * [1.0, 5.0, 0.2] + [0, 3, 7]


def ridge_twin(standard: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Leave-one-out by leaving each row out, for every strength."""
    n = len(errors)

    def weights(x: np.ndarray, y: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
        # The full fit's centring is kept: its intercept is that of standardised columns.
        both = np.column_stack([x, np.ones(len(y))])
        penalty = np.diag([strength] * x.shape[1] + [0.0])
        solved = np.linalg.solve(both.T @ both + penalty, both.T @ y)
        return solved[:-1], float(solved[-1])

    def error(strength: float) -> float:
        left = []
        for i in range(n):
            kept = np.arange(n) != i
            w, b = weights(standard[kept], errors[kept], strength)
            left.append(abs(errors[i] - standard[i] @ w - b))
        return float(np.mean(left))

    best = min(STRENGTHS, key=error)
    return weights(standard, errors, best)[0]


def test_closed_form_leave_one_out_chooses_as_leaving_rows_out_does() -> None:
    numbers = rows(40)
    errors = 0.05 * numbers[:, 0] + 0.02 * np.random.default_rng(1).normal(size=40)
    head = fit_residual(NAMES, numbers, errors)
    standard = (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)
    assert head.weights == pytest.approx(ridge_twin(standard, errors), rel=1e-6, abs=1e-9)
    assert np.abs(head.correction(numbers) - errors).mean() < 0.025


def test_a_correction_is_clipped_and_fades_outside_what_was_seen() -> None:
    numbers = rows(60)
    errors = 0.1 * numbers[:, 0]
    head = fit_residual(NAMES, numbers, errors)
    assert head.clip == pytest.approx(np.quantile(np.abs(errors), 0.95))
    inside = numbers[[np.argmax(numbers[:, 0])]]
    at_edge = float(head.correction(inside)[0])
    assert at_edge <= head.clip
    far = inside + np.array([4.0, 0.0, 0.0])
    assert 0 < float(head.correction(far)[0]) < 0.05 * at_edge


def test_wild_errors_teach_a_bounded_correction() -> None:
    numbers = rows(30)
    errors = np.zeros(30)
    errors[3] = 9.0
    assert np.abs(fit_residual(NAMES, numbers, errors).correction(numbers)).max() < 0.1


@pytest.mark.slow
def test_trees_answer_as_scikit_learns() -> None:
    from sklearn.ensemble import GradientBoostingRegressor

    from sim.calibration.trees import Trees

    numbers = rows(400)
    errors = np.where(numbers[:, 0] > 0.3, 0.2, -0.1) * (numbers[:, 1] > 2)
    model = GradientBoostingRegressor(n_estimators=40, max_depth=4, random_state=1)
    model.fit(numbers, errors)
    new = np.concatenate([rows(300, 2), numbers])
    assert Trees.of_sklearn(model).predict(new) == pytest.approx(model.predict(new), abs=1e-12)
    head = fit_residual(NAMES, numbers, errors)
    assert len(numbers) >= TREES_FROM
    assert head.trees is not None
    assert np.abs(head.correction(numbers) - errors).mean() < 0.02


def test_a_conformal_width_covers_the_next_error() -> None:
    rng = np.random.default_rng(0)
    seen, tries = 39, 2000
    errors = rng.standard_t(3, size=(tries, seen + 1))
    covered = [abs(row[-1]) <= conformal_width(row[:-1], range(seen)) for row in errors]
    sigma = np.sqrt(0.9 * 0.1 / tries)
    # Rank 36 of 39 errors: the next one is among the 36 smallest of 40 with probability 0.9.
    assert abs(np.mean(covered) - 0.9) < 3 * sigma


def test_rows_of_one_shape_are_not_taken_for_as_many_shapes() -> None:
    """Twelve shapes that err as wholes, some of them timed ten times as often as others."""
    rng = np.random.default_rng(1)
    tries, shapes = 3000, np.repeat(np.arange(12), [2, 20] * 6)
    covered, by_rows = [], []
    for _ in range(tries):
        of_shape = rng.normal(size=13)
        errors = of_shape[shapes] + 0.1 * rng.normal(size=len(shapes))
        new = abs(of_shape[12] + 0.1 * rng.normal())
        covered.append(new <= conformal_width(errors, shapes))
        by_rows.append(new <= conformal_width(errors, np.arange(len(shapes))))
    sigma = np.sqrt(0.9 * 0.1 / tries)
    assert np.mean(covered) > 0.9 - 3 * sigma
    assert np.mean(by_rows) < 0.9 - 3 * sigma  # what counting rows would promise, and break


def test_too_few_shapes_have_no_finite_width() -> None:
    assert conformal_width(np.ones(8), range(8)) == np.inf
    assert conformal_width(np.ones(9), range(9)) == 1.0
    assert conformal_width(np.ones(80), [row % 8 for row in range(80)]) == np.inf


@pytest.mark.parametrize("count", [3, 5, 8])
def test_of_few_shapes_normal_errors_are_covered(count: int) -> None:
    rng = np.random.default_rng(100 + count)
    tries, shapes = 4000, np.repeat(np.arange(count), rng.integers(1, 9, count))
    covered = []
    for _ in range(tries):
        of_shape = 0.1 * rng.normal(size=count + 1)
        covered.append(abs(of_shape[count]) <= student_width(of_shape[shapes], shapes))
    assert abs(np.mean(covered) - 0.9) < 3 * np.sqrt(0.9 * 0.1 / tries)


@pytest.mark.parametrize("count", range(3, 9))
def test_widths_of_few_shapes_are_students_quantiles(count: int) -> None:
    """Errors of size 1: the width is where a share of 0.95 of Student's density lies below."""
    width = student_width(np.ones(4 * count), np.arange(4 * count) % count)
    steps = np.linspace(0.0, width, 20_001)
    density = (1.0 + steps**2 / count) ** (-(count + 1) / 2)
    density *= math.gamma((count + 1) / 2) / math.gamma(count / 2) / math.sqrt(count * math.pi)
    assert 0.5 + np.trapezoid(density, steps) == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize(("rows", "own"), [(19, False), (20, True)])
def test_a_stratum_of_twenty_rows_has_a_width_of_its_own(rows: int, own: bool) -> None:
    names = ["tensor"] * rows + ["dram"] * 30
    errors = np.where(np.array(names) == "tensor", 0.1, 0.2)
    shapes = np.concatenate([np.arange(rows) % 9, np.arange(30) % 9])
    found = stratum_widths(names, ["bf16"] * len(names), errors, shapes)
    assert ("tensor bf16" in found) is own
    assert width_of(found, "tensor", "bf16") == (0.1 if own else 0.2)


def test_two_shapes_have_no_variance() -> None:
    assert student_width(np.ones(40), np.arange(40) % 2) == np.inf


def test_a_stratum_with_few_errors_takes_a_wider_ones_width() -> None:
    bindings = ["dram"] * 30 + ["tensor"] * 40 + ["l2"] * 3
    elements = ["bf16"] * 30 + ["int8"] * 40 + ["int8"] * 3
    errors = np.concatenate([np.full(30, 0.01), np.full(40, 0.1), np.full(3, 0.4)])
    widths = stratum_widths(bindings, elements, errors, range(73))
    assert width_of(widths, "dram", "bf16") == 0.01
    assert width_of(widths, "tensor", "int8") == 0.1
    assert "l2 int8" not in widths
    assert width_of(widths, "l2", "int8") == widths["* int8"] == 0.1
    assert width_of(widths, "dram", "e4m3fn") == widths["dram *"]
    assert width_of(widths, "latency", "e4m3fn") == widths["* *"]
    assert width_of({}, "dram", "bf16") is None
    # Of eight shapes, however many rows: no stratum has a width.
    assert stratum_widths(bindings, elements, errors, [row % 8 for row in range(73)]) == {}


def test_a_residual_holds_plain_arrays() -> None:
    head = fit_residual(NAMES, rows(30), np.linspace(-0.1, 0.1, 30))
    assert isinstance(head, Residual)
    assert head.trees is None
    assert head.weights.shape == (3,)
