"""The model set right by what was measured, against plain formulas and on made-up machines."""

import math
from collections.abc import Sequence

import fake_kernels
import numpy as np
import pytest
from numpy.typing import NDArray

from tiles.kernels import ConfigTable, Status
from tuning.plan import Strategy
from tuning.strategies import STRATEGIES, History, LegalTable, Outcome, Proposals
from tuning.strategies.correction import FAILED, LEAST_SPREAD, NOISE, REACH, Correction

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
    ratio = {row: math.log(value / legal.predicted[row]) for row, value in timed.items()}
    bias = sorted(ratio.values())[len(ratio) // 2]
    assert len(ratio) % 2, "a median of its own"
    spread = math.sqrt(sum((one - bias) ** 2 for one in ratio.values()) / len(ratio))
    spread = max(LEAST_SPREAD, spread, abs(bias))
    slowest = max(ratio.values())
    known = [(row, ratio.get(row, slowest + math.log(FAILED)) - bias) for row, _ in told]
    goal = math.log(min(timed.values()))

    def alike(one: int, other: int) -> float:
        square = sum((legal.points[one] - legal.points[other]) ** 2)
        return spread**2 * math.exp(-square / (2 * REACH**2))

    def gain(row: int) -> tuple[float, float]:
        among = [one for one, _ in known]
        k = np.array([[alike(i, j) + NOISE**2 * (i == j) for i in among] for j in among])
        near = np.array([alike(row, one) for one in among])
        mean = float(near @ np.linalg.solve(k, [error for _, error in known]))
        deviation = math.sqrt(spread**2 - float(near @ np.linalg.solve(k, near)))
        ahead = goal - (math.log(legal.predicted[row]) + bias + mean)
        z = ahead / deviation
        below = 0.5 * math.erfc(-z / math.sqrt(2))
        return ahead * below + deviation * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), mean

    rows = []
    for _ in range(count):
        best = max(sorted(untried, key=legal.ranking.tolist().index), key=lambda r: gain(r)[0])
        known.append((best, gain(best)[1]))
        untried = untried - {best}
        rows.append(best)
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_those_of_the_textbook_s_formulas(seed: int) -> None:
    legal, rng = legal_table(), np.random.default_rng(seed)
    rows = rng.choice(len(legal), 6, replace=False).tolist()
    told = [(row, outcome(float(legal.predicted[row] * rng.uniform(0.8, 1.4)))) for row in rows]
    told[2] = (rows[2], Outcome(Status.CORRECTNESS))
    untried = np.ones(len(legal), dtype=np.bool_)
    untried[rows] = False
    by_hand = chosen_by_hand(legal, told, set(np.flatnonzero(untried).tolist()), 5)
    assert Correction(legal, told).choose(untried, 5) == by_hand


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


def test_what_fails_drives_the_search_away() -> None:
    legal = legal_table()
    rows = [int(row) for row in legal.ranking[:4]]
    untried = np.ones(len(legal), dtype=np.bool_)
    untried[rows] = False
    failed = [(row, Outcome(Status.CORRECTNESS)) for row in rows]
    fine = [(int(legal.ranking[60]), outcome(float(legal.predicted[legal.ranking[60]])))]
    untried[fine[0][0]] = False
    (first,) = Correction(legal, [*failed, *fine]).choose(untried, 1)
    distance = ((legal.points[first] - legal.points[rows]) ** 2).sum(axis=1).min()
    (next_best,) = Correction(legal, fine).choose(untried, 1)
    assert distance > ((legal.points[next_best] - legal.points[rows]) ** 2).sum(axis=1).min()
