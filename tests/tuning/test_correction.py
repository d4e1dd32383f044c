"""The model set right by what was measured, against plain formulas and on made-up machines."""

import math
from collections.abc import Sequence
from statistics import median

import fake_kernels
import numpy as np
import pytest
from numpy.typing import NDArray

from tiles.kernels import ConfigTable, Status
from tuning.plan import Strategy
from tuning.strategies import STRATEGIES, History, LegalTable, Outcome, Proposals, correction
from tuning.strategies.correction import (
    FAILED,
    FASTEST,
    LATEST,
    LEAST_SPREAD,
    NOISE,
    REACH,
    Correction,
    _learnt,
)

F64 = NDArray[np.float64]


def legal_table() -> LegalTable:
    """112 configurations; the model holds large sizes for slower, and knows no flags."""
    table = ConfigTable.product(
        fake_kernels.FakeConfig,
        mode=[1, 2, 4, 8, 16, 32, 64],
        size=[16, 32, 64, 128, 256, 512, 1024, 2048],
        flag=[False, True],
    )
    time_us = 20 + 3 * np.log2(table["size"]) + np.log2(table["mode"])
    return LegalTable(table, time_us, time_us * 0.7, time_us * 1.4)


def outcome(time_us: float) -> Outcome:
    return Outcome(Status.CORRECT, time_us)


def chosen_by_hand(
    legal: LegalTable, told: Sequence[tuple[int, Outcome]], untried: set[int], count: int
) -> list[int]:
    """The same rule, one configuration at a time, by the textbook's formulas."""
    timed = {row: one.value for row, one in told if one.value is not None}
    failed = [row for row, one in told if one.value is None]
    ratio = {row: math.log(value / legal.predicted[row]) for row, value in timed.items()}
    bias = median(ratio.values()) if ratio else 0.0
    square = sum((one - bias) ** 2 for one in ratio.values())
    spread = max(LEAST_SPREAD, math.sqrt(square / len(ratio)) if ratio else 0.0, abs(bias))
    known = [(row, one - bias) for row, one in ratio.items()]
    goal = math.log(min(timed.values()) if timed else min(legal.predicted))

    def likeness(one: int, other: int) -> float:
        square = sum((legal.points[one] - legal.points[other]) ** 2)
        return math.exp(-square / (2 * REACH**2))

    def gain(row: int) -> tuple[float, float]:
        mean, variance = 0.0, spread**2
        if among := [one for one, _ in known]:
            k = [[spread**2 * likeness(i, j) + NOISE**2 * (i == j) for i in among] for j in among]
            near = np.array([spread**2 * likeness(row, one) for one in among])
            mean = float(near @ np.linalg.solve(k, [error for _, error in known]))
            variance -= float(near @ np.linalg.solve(k, near))
        distrust = math.log(FAILED) * max((likeness(row, one) for one in failed), default=0.0)
        ahead = goal - (math.log(legal.predicted[row]) + bias + mean + distrust)
        z = ahead / math.sqrt(variance)
        below = 0.5 * math.erfc(-z / math.sqrt(2))
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return ahead * below + math.sqrt(variance) * density, mean

    rows = []
    for _ in range(count):
        best = max(sorted(untried, key=legal.ranking.tolist().index), key=lambda r: gain(r)[0])
        known.append((best, gain(best)[1]))
        untried = untried - {best}
        rows.append(best)
    return rows


@pytest.mark.parametrize("failures", [0, 1, 2, 6])
@pytest.mark.parametrize("seed", range(2))
def test_rows_are_those_of_the_textbook_s_formulas(seed: int, failures: int) -> None:
    """An odd and an even number of timings, and none at all."""
    legal, rng = legal_table(), np.random.default_rng(seed)
    rows = rng.choice(len(legal), 6, replace=False).tolist()
    told = [(row, outcome(float(legal.predicted[row] * rng.uniform(0.8, 1.4)))) for row in rows]
    told[:failures] = [(row, Outcome(Status.CORRECTNESS)) for row in rows[:failures]]
    untried = np.ones(len(legal), dtype=np.bool_)
    untried[rows] = False
    by_hand = chosen_by_hand(legal, told, set(np.flatnonzero(untried).tolist()), 5)
    assert Correction(legal, told).choose(untried, 5) == by_hand


def test_a_long_history_is_its_fastest_and_its_latest() -> None:
    told = [(row, outcome(float(1000 - row))) for row in range(200)]
    told[70:80] = [(row, Outcome(Status.TIMEOUT)) for row in range(70, 80)]
    told[3] = (3, outcome(1.0))
    rows = [row for row, _ in _learnt(told)]
    assert rows[-LATEST:] == list(range(200 - LATEST, 200))
    assert rows[0] == 3
    timed = [row for row in range(200 - LATEST) if not 70 <= row < 80 and row != 3]
    assert rows[1:FASTEST] == timed[::-1][: FASTEST - 1]
    assert len(rows) == FASTEST + LATEST


def test_of_a_large_space_the_best_predicted_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ninth would be the best, by what was measured beside it."""
    legal = legal_table()
    ninth = int(legal.ranking[8])
    near = ((legal.points - legal.points[ninth]) ** 2).sum(axis=1)
    beside = int(next(row for row in np.argsort(near) if row not in legal.ranking[:9]))
    told = [(beside, outcome(float(legal.predicted[beside] / 2)))]
    far = [int(row) for row in np.argsort(near)[-4:]]
    told += [(row, outcome(float(legal.predicted[row]))) for row in far]
    untried = np.ones(len(legal), dtype=np.bool_)
    untried[[row for row, _ in told]] = False
    (free,) = Correction(legal, told).choose(untried, 1)
    monkeypatch.setattr(correction, "LOOKED_AT", 4)
    (bound,) = Correction(legal, told).choose(untried, 1)
    best = [int(row) for row in legal.ranking if untried[row]][:4]
    assert bound in best
    assert free not in best


def best_of(legal: LegalTable, taken: F64, kind: Strategy, seed: int, budget: int) -> float:
    """Share of the optimum that a search reaches."""
    strategy = STRATEGIES[kind](legal, seed=seed, budget=budget, early_stop=False)
    history, proposals = History(len(legal)), Proposals(strategy, 4)
    while not strategy.stop(history):
        row = proposals.next(history)
        history.ask(row, len(history))
        history.tell(row, outcome(float(taken[row])))
    return float(taken.min() / history.correct()[1].min())


def test_a_search_learns_where_the_model_is_wrong() -> None:
    """What the model likes best takes half as long again; twelve measurements see through that."""
    legal = legal_table()
    wrong = legal.table["size"] <= 64
    reached: dict[Strategy, list[float]] = {kind: [] for kind in Strategy}
    for seed in range(10):
        noise = np.exp(np.random.default_rng(seed).normal(0, 0.02, len(legal)))
        taken = legal.predicted * np.where(wrong, 1.5, 1.0) * noise
        for kind in (Strategy.HYBRID, Strategy.MODEL, Strategy.TPE):
            reached[kind].append(best_of(legal, taken, kind, seed, 12))
    mean = {kind: np.mean(shares) for kind, shares in reached.items() if shares}
    assert mean[Strategy.HYBRID] > 0.97
    assert mean[Strategy.TPE] < 0.95
    assert mean[Strategy.MODEL] < 0.9


def test_a_few_measurements_stay_near_the_model_s_best_where_it_is_right() -> None:
    legal = legal_table()
    strategy = STRATEGIES[Strategy.HYBRID](legal, seed=0, budget=8, early_stop=False)
    history, proposals = History(len(legal)), Proposals(strategy, 8)
    while not strategy.stop(history):
        row = proposals.next(history)
        history.ask(row, len(history))
        history.tell(row, outcome(float(legal.predicted[row])))
    learnt = history.rows[len(strategy.openers) :]
    near = 1.2 * legal.predicted.min()
    assert (legal.predicted > near).mean() > 0.7  # where rows drawn at random would lie
    assert max(legal.predicted[learnt]) < near


def test_what_fails_drives_the_search_away_and_makes_nothing_faster() -> None:
    """The best four fail; what was timed took exactly as long as predicted."""
    legal = legal_table()
    failed = [(int(row), Outcome(Status.CORRECTNESS)) for row in legal.ranking[:4]]
    fine = [(int(r), outcome(float(legal.predicted[r]))) for r in legal.ranking[[8, 60, 70, 80]]]
    untried = np.ones(len(legal), dtype=np.bool_)
    untried[[row for row, _ in [*failed, *fine]]] = False
    beside, free = (
        [
            (found := Correction(legal, told).choose(untried, 1)[0]),
            min(float(((legal.points[found] - legal.points[row]) ** 2).sum()) for row, _ in failed),
        ]
        for told in ([*failed, *fine], fine)
    )
    assert beside[1] > free[1]
    corrected = Correction(legal, [*failed, *fine])
    rows = np.flatnonzero(untried)
    mean, _ = corrected._believed(corrected._rows, corrected._errors, rows)
    assert abs(mean).max() < 1e-9
    assert (corrected._distrust(rows) >= 0).all()
