"""Every metric against a slow, obvious twin or a value worked out by hand."""

import itertools
import math

import numpy as np
import pytest
from measured_cases import measured

from sim.evaluation.choice import expected_fraction, kept_share, pruning_recall
from sim.evaluation.coverage import coverage
from sim.evaluation.errors import time_errors
from sim.evaluation.ranks import average_ranks, kendall, spearman
from sim.evaluation.speedup import speedup_error, speedups, twin_text
from tiles.problems import parse_problem


def columns(rows: int, seed: int, *, levels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and measured times; predictions tie where they have few levels."""
    drawn = np.random.default_rng(seed)
    measured_us = np.exp(drawn.normal(size=rows))
    told = drawn.integers(levels, size=rows) + 1.0 if levels else np.exp(drawn.normal(size=rows))
    return told, measured_us


def test_errors_are_shares_of_the_measured_time() -> None:
    found = time_errors(np.array([50.0, 110.0, 400.0, 100.0]), np.full(4, 100.0))
    assert found.mape == pytest.approx((0.5 + 0.1 + 3.0 + 0.0) / 4)
    assert found.median == pytest.approx(0.3)
    assert found.p90 == pytest.approx(0.5 + 0.7 * (3.0 - 0.5))
    assert found.bias == pytest.approx((0.5 * 1.1 * 4.0 * 1.0) ** 0.25 - 1)


def test_errors_do_not_depend_on_the_unit() -> None:
    told, truth = columns(50, 0)
    assert time_errors(told * 1e3, truth * 1e3).mape == pytest.approx(time_errors(told, truth).mape)


def slow_ranks(values: np.ndarray) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def slow_kendall(a: np.ndarray, b: np.ndarray) -> float:
    agree = first = second = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        x, y = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
        agree, first, second = agree + x * y, first + abs(x), second + abs(y)
    return float(agree / math.sqrt(first * second))


@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("seed", range(5))
def test_rank_correlations_against_twins(seed: int, levels: int) -> None:
    told, truth = columns(23, seed, levels=levels)
    assert average_ranks(told).tolist() == slow_ranks(told)
    a, b = slow_ranks(told), slow_ranks(truth)
    assert spearman(told, truth) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert kendall(told, truth) == pytest.approx(slow_kendall(told, truth))


def test_rank_correlations_of_known_orders() -> None:
    rising = np.arange(1.0, 9.0)
    for correlation in (spearman, kendall):
        assert correlation(rising, rising**3) == pytest.approx(1)
        assert correlation(rising, -rising) == pytest.approx(-1)
        assert correlation(np.ones(8), rising) == 0.0
    # Hand value: one swap of neighbours among four is one discordant pair of six.
    assert kendall(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 4, 3])) == pytest.approx(4 / 6)


def test_kendall_in_blocks_is_kendall_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told, truth = columns(41, 3, levels=6)
    whole = kendall(told, truth)
    monkeypatch.setattr("sim.evaluation.ranks._PAIRS", 100)
    assert kendall(told, truth) == pytest.approx(whole)


def orders(told: np.ndarray) -> list[tuple[int, ...]]:
    """Every order of the rows that the predictions allow."""
    levels = [np.flatnonzero(told == value).tolist() for value in np.unique(told)]
    shuffled = itertools.product(*(itertools.permutations(level) for level in levels))
    return [tuple(itertools.chain(*one)) for one in shuffled]


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_expected_fraction_is_the_mean_over_all_orders_of_ties(levels: int, count: int) -> None:
    for seed in range(3):
        told, truth = columns(6, seed, levels=levels)
        every = [truth.min() / truth[list(order[:count])].min() for order in orders(told)]
        assert expected_fraction(told, truth, count) == pytest.approx(np.mean(every))


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize("dropped", [0.0, 0.5, 0.8, 0.9])
def test_pruning_recall_is_the_mean_over_all_orders_of_ties(levels: int, dropped: float) -> None:
    for seed in range(3):
        told, truth = columns(6, seed, levels=levels)
        truth[1] = truth.min() * 1.009  # a second winner, within 1 %
        left = kept_share(6, dropped)
        winners = truth <= 1.01 * truth.min()
        every = [winners[list(order[:left])].any() for order in orders(told)]
        assert pruning_recall(told, truth, dropped) == pytest.approx(np.mean(every))


def test_choices_of_who_knows_and_who_is_wrong() -> None:
    truth = np.array([100.0, 101.5, 150.0, 200.0])
    assert expected_fraction(truth, truth, 1) == 1.0
    assert expected_fraction(-truth, truth, 1) == 0.5
    assert expected_fraction(-truth, truth, 2) == pytest.approx(100 / 150)
    assert pruning_recall(-truth, truth, 0.5) == 0.0
    assert pruning_recall(truth, truth, 0.9) == 1.0
    # 101.5 is no winner: it is 1.5 % slower.
    assert pruning_recall(np.array([2.0, 1.0, 3.0, 4.0]), truth, 0.75) == 0.0


@pytest.mark.parametrize(
    ("rows", "dropped", "left"), [(160, 0.8, 32), (160, 0.9, 16), (18, 0.9, 2), (4, 0.9, 1)]
)
def test_what_is_left_is_rounded_up(rows: int, dropped: float, left: int) -> None:
    assert kept_share(rows, dropped) == left


def test_coverage_counts_rows_and_draws_shapes() -> None:
    measured_us = np.full(80, 10.0)
    low = np.where(np.arange(80) < 40, 10.5, 9.0)  # four of eight shapes lie outside
    high = np.full(80, 18.0)
    shapes = [f"shape {row // 10}" for row in range(80)]
    found = coverage(low, high, measured_us, shapes)
    assert found.share == 0.5
    # Of eight shapes drawn, those inside are binomial: the 5th and 95th percentile of their share.
    chances = [math.comb(8, n) * 0.5**8 for n in range(9)]
    below = np.cumsum(chances)
    assert found.low == pytest.approx(next(n / 8 for n in range(9) if below[n] >= 0.05))
    assert found.high == pytest.approx(next(n / 8 for n in range(9) if below[n] >= 0.95))
    assert found.width == pytest.approx(math.sqrt(18 / 10.5 * 2))
    one = coverage(low, high, measured_us, ["one"] * 80)
    assert (one.low, one.high) == (0.5, 0.5)


def test_ends_of_an_interval_lie_inside_it() -> None:
    ends = np.array([5.0, 8.0])
    assert coverage(ends, ends, ends, ["a", "b"]).share == 1.0


def test_speedups_are_of_the_best_over_all_families() -> None:
    tables = [
        measured("gemm:64x512x512:bf16:bf16", [20.0, 10.0, 30.0, 40.0]),
        measured("gemm:64x512x512:e4m3-row:bf16", [8.0, 9.0, 6.0, 7.0]),
        measured("gemm:64x512x512:e4m3-row:bf16", [5.0, 9.0, 9.0, 9.0], family="triton_gemm"),
        measured("gemm:128x512x512:int8-row:bf16"),  # no bf16 at this shape
    ]
    told = [np.full(4, 12.0), np.array([4.0, 3.0, 9.0, 9.0]), np.full(4, 6.0), np.full(4, 1.0)]
    (found,) = speedups(tables, told)
    assert found.measured == pytest.approx(10.0 / 5.0)
    assert found.predicted == pytest.approx(12.0 / 3.0)
    assert found.error == pytest.approx(1.0)
    assert speedup_error([found]) == (pytest.approx(1.0), 1.0)


def test_warm_and_cold_times_make_no_speedup() -> None:
    warm = measured("gemm:64x512x512:bf16:bf16", cold=False)
    cold = measured("gemm:64x512x512:e4m3-row:bf16")
    assert speedups([warm, cold], [np.ones(4), np.ones(4)]) == []
    assert speedup_error([]) == (None, None)


def test_the_sign_of_what_is_as_fast_as_bf16_is_not_asked() -> None:
    tables = [
        measured("gemm:64x512x512:bf16:bf16", [100.0] * 4),
        measured("gemm:64x512x512:e4m3-row:bf16", [99.0] * 4),
        measured("gemm:64x512x512:jetfire:bf16", [200.0] * 4),
    ]
    told = [np.full(4, 100.0), np.full(4, 110.0), np.full(4, 50.0)]
    error, sign = speedup_error(speedups(tables, told))
    assert sign == 0.0  # jetfire alone counts, and was told to be faster
    assert error == pytest.approx((abs(100 / 110 * 99 / 100 - 1) + abs(2 / 0.5 - 1)) / 2)


@pytest.mark.parametrize(
    ("text", "twin"),
    [
        ("gemm:64x512x512:jetfire:int8.b32x32", "gemm:64x512x512:bf16:bf16"),
        ("gemm:64x512x512:e4m3-row:fp16", "gemm:64x512x512:bf16:fp16"),
        ("batched_gemm:8x64x64x64:e4m3-row:kn:bf16", "batched_gemm:8x64x64x64:bf16:kn:bf16"),
        ("transpose:512x512:int8", None),
    ],
)
def test_the_bf16_twin_has_the_same_shape_and_layout(text: str, twin: str | None) -> None:
    assert twin_text(parse_problem(text)) == twin
