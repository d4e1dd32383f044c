"""Every strategy keeps the same promises, whatever it thinks of the model."""

import itertools
from collections.abc import Callable, Iterator

import fake_kernels
import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiles.kernels import ConfigTable, Status
from tiles.kernels.gemm import GemmConfig
from tuning.plan import Strategy
from tuning.strategies import STRATEGIES, History, LegalTable, Outcome, Proposals, SearchStrategy
from tuning.strategies.tpe import _learnt

FAILURES = [status for status in Status if status is not Status.CORRECT]
Measure = Callable[[int], Outcome]


@pytest.fixture(autouse=True)
def silence() -> None:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def legal_table(keep: int = 2**24 - 1) -> LegalTable:
    """Up to 24 configurations, the model's times in the order of the rows."""
    table = ConfigTable.product(
        fake_kernels.FakeConfig, mode=[0, 1, 2], size=[16, 32, 64, 256], flag=[False, True]
    )
    kept = table.take(np.array([bool(keep >> bit & 1) for bit in range(len(table))]))
    time_us = 10.0 + np.arange(len(kept))
    return LegalTable(kept, time_us, time_us * 0.7, time_us * 1.4)


def fine(row: int) -> Outcome:
    """A machine that the model knows badly."""
    return Outcome(Status.CORRECT, 10.0 + 7 * row % 24)


def failing_often(row: int) -> Outcome:
    return Outcome(FAILURES[row % 5]) if row % 3 else fine(row)


def failing_always(row: int) -> Outcome:
    return Outcome(FAILURES[row % 5])


def go_on(
    strategy: SearchStrategy, history: History, measure: Measure, batch: int = 1
) -> Iterator[int]:
    """What a sweep does: rows one after the other until the strategy stops."""
    proposals = Proposals(strategy, batch)
    for number in itertools.count(len(history)):
        if strategy.stop(history):
            return
        row = proposals.next(history)
        history.ask(row, number)
        history.tell(row, measure(row))
        yield row


def search(
    strategy: SearchStrategy, measure: Measure = fine, batch: int = 1
) -> tuple[list[int], History]:
    history = History(len(strategy.legal))
    return list(go_on(strategy, history, measure, batch)), history


@pytest.mark.parametrize("kind", list(Strategy), ids=lambda kind: kind.value)
class TestConformance:
    """A new strategy is held to this by being registered."""

    def make(
        self, kind: Strategy, legal: LegalTable | None = None, **changes: object
    ) -> SearchStrategy:
        options = {"seed": 3, "budget": 1000, **changes}
        return STRATEGIES[kind](legal or legal_table(), **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize("batch", [1, 5])
    @pytest.mark.parametrize("measure", [fine, failing_often, failing_always])
    def test_asks_for_legal_rows_each_once_until_it_stops(
        self, kind: Strategy, measure: Measure, batch: int
    ) -> None:
        strategy = self.make(kind, early_stop=False)
        rows, history = search(strategy, measure, batch)
        assert sorted(rows) == list(range(24))
        assert all(type(row) is int for row in rows)
        assert strategy.stop(history) == "24 of 24 measurements done"

    @pytest.mark.parametrize("measure", [fine, failing_often, failing_always])
    def test_ends_within_its_budget_and_says_why(self, kind: Strategy, measure: Measure) -> None:
        for budget in (1, 7, 15):
            strategy = self.make(kind, budget=budget)
            rows, history = search(strategy, measure)
            whole = kind is Strategy.EXHAUSTIVE
            assert len(rows) <= (24 if whole else budget)
            assert strategy.stop(history)
            if kind is not Strategy.HYBRID:
                assert len(rows) == (24 if whole else budget)

    def test_same_seed_same_rows(self, kind: Strategy) -> None:
        rows = [
            search(self.make(kind, seed=seed, budget=20, early_stop=False), batch=4)[0]
            for seed in (3, 3, 4)
        ]
        assert rows[0] == rows[1]
        assert (rows[0] != rows[2]) == STRATEGIES[kind].seeded

    def test_a_proposal_is_a_function_of_the_history(self, kind: Strategy) -> None:
        """Nothing that a strategy was asked before changes its answer."""
        strategy = self.make(kind, early_stop=False)
        _, whole = search(self.make(kind, early_stop=False))
        for count in (14, 0, 20, 3, 14):
            history = whole.first(count)
            asked = strategy.propose(history, 4)
            assert asked == self.make(kind, early_stop=False).propose(history, 4)
            assert asked[:2] == strategy.propose(history, 2), "a longer answer begins otherwise"
            assert len(asked) <= 4
            assert all(history.untried[row] for row in asked)
            assert len(set(asked)) == len(asked)

    @pytest.mark.parametrize("batch", [1, 5])
    @pytest.mark.parametrize("measure", [fine, failing_often])
    def test_resumed_anywhere_it_goes_on_as_if_uninterrupted(
        self, kind: Strategy, measure: Measure, batch: int
    ) -> None:
        whole, history = search(self.make(kind), measure, batch)
        for cut in range(0, len(whole), 6):
            rest = list(go_on(self.make(kind), history.first(cut), measure, batch))
            assert whole[:cut] + rest == whole

    def test_a_row_that_was_cut_short_keeps_its_place(self, kind: Strategy) -> None:
        whole, _ = search(self.make(kind), failing_often, 5)
        for cut in range(2, len(whole), 7):
            history = History(24)
            for number, row in enumerate(whole[: cut + 1]):
                history.ask(row, number)
                if number < cut:
                    history.tell(row, failing_often(row))
            history.ask(whole[cut], cut + 1)  # killed, and taken again by the next trial
            history.tell(whole[cut], failing_often(whole[cut]))
            rest = list(go_on(self.make(kind), history, failing_often, 5))
            assert whole[: cut + 1] + rest == whole

    def test_trials_begun_at_once_get_different_rows(self, kind: Strategy) -> None:
        history = History(24)
        rows = [Proposals(self.make(kind)).next(history, ahead) for ahead in range(4)]
        assert len(set(rows)) == 4

    def test_a_larger_budget_goes_on(self, kind: Strategy) -> None:
        first, history = search(self.make(kind, budget=5))
        more = list(go_on(self.make(kind, budget=20, early_stop=False), history, fine))
        assert len(set(first + more)) == len(first + more)
        assert len(first + more) == (24 if kind is Strategy.EXHAUSTIVE else 20)

    @pytest.mark.parametrize("keep", [1, 0b11], ids=["one row", "two rows"])
    def test_a_tiny_space_is_tried_and_done(self, kind: Strategy, keep: int) -> None:
        rows, _ = search(self.make(kind, legal_table(keep)))
        assert sorted(rows) == list(range(keep.bit_count()))

    @settings(max_examples=6, deadline=None)
    @given(
        keep=st.integers(1, 2**24 - 1),
        times=st.lists(st.none() | st.floats(0.5, 1e4), min_size=24, max_size=24),
        seed=st.integers(0, 2**32 - 1),
        batch=st.integers(1, 9),
    )
    def test_holds_on_any_space_and_any_outcomes(
        self, kind: Strategy, keep: int, times: list[float | None], seed: int, batch: int
    ) -> None:
        def measure(row: int) -> Outcome:
            time_us = times[row]
            failed = time_us is None
            return Outcome(FAILURES[row % 5] if failed else Status.CORRECT, time_us)

        strategy = self.make(kind, legal_table(keep), seed=seed, budget=18)
        rows, history = search(strategy, measure, batch)
        assert len(set(rows)) == len(rows)
        assert all(0 <= row < len(strategy.legal) for row in rows)
        assert strategy.stop(history)


@pytest.mark.parametrize("kind", [Strategy.MODEL, Strategy.EXHAUSTIVE])
def test_the_models_order_is_kept(kind: Strategy) -> None:
    rows, _ = search(STRATEGIES[kind](legal_table(), seed=0, budget=9))
    assert rows == list(range(24 if kind is Strategy.EXHAUSTIVE else 9))


@pytest.mark.parametrize("kind", [Strategy.TPE, Strategy.RANDOM])
def test_strategies_without_advice_do_not_look_at_predictions(kind: Strategy) -> None:
    legal = legal_table()
    worst_first = legal.predicted[::-1].copy()
    blind = LegalTable(legal.table, worst_first, worst_first * 0.5, worst_first * 2)
    rows = [search(STRATEGIES[kind](one, seed=1, budget=20))[0] for one in (legal, blind)]
    assert rows[0] == rows[1]


def test_hybrid_opens_with_neighbours_then_the_models_best() -> None:
    strategy = STRATEGIES[Strategy.HYBRID](
        legal_table(), seed=0, budget=16, neighbours=[21, 5, 21, 9, 3]
    )
    assert strategy.openers[:4] == [21, 5, 9, 3], "nearest first, each once"
    assert len(strategy.openers) == 8
    small = STRATEGIES[Strategy.HYBRID](legal_table(), seed=0, budget=4, neighbours=[21, 5])
    assert small.openers[0] == 21
    assert 5 not in small.openers, "half of the opening is the model's"
    rows, _ = search(strategy)
    assert rows[:8] == strategy.openers


def big_table() -> LegalTable:
    """A model that is within a few per cent, and sure of it."""
    table = ConfigTable.product(
        GemmConfig,
        block_m=(16, 32, 64, 128),
        block_n=(16, 32, 64, 128),
        block_k=(32, 64),
        group_m=(1, 8),
        num_warps=(4, 8),
        num_stages=(2, 3, 4),
        tma=(False, True),
        persistent=(False, True),
    )
    time_us = 10 + 0.01 * np.random.default_rng(0).permutation(len(table))
    return LegalTable(table, time_us, time_us * 0.95, time_us * 1.05)


def test_hybrid_stops_once_an_improvement_is_unlikely() -> None:
    legal = big_table()

    def measure(row: int) -> Outcome:
        noise = np.random.default_rng(row).normal(0, 0.01)
        return Outcome(Status.CORRECT, float(legal.predicted[row] * np.exp(noise)))

    strategy = STRATEGIES[Strategy.HYBRID](legal, seed=0, budget=200)
    rows, history = search(strategy, measure)
    assert 8 <= len(rows) < 200
    assert "an improvement by 1 % has a chance of 0.0" in strategy.stop(history)
    assert min(measure(row).value or 0 for row in rows) <= 1.01 * min(
        measure(row).value or 0 for row in range(len(legal))
    )


def test_hybrid_proposes_where_the_model_leaves_room() -> None:
    legal = big_table()
    strategy = STRATEGIES[Strategy.HYBRID](legal, seed=0, budget=32, early_stop=False)
    _, history = search(
        strategy, lambda row: Outcome(Status.CORRECT, float(legal.predicted[row])), batch=8
    )
    late = history.rows[16:]
    # Rows that are predicted 20 % slower than the best, by a model within 5 %, are left alone.
    assert legal.predicted[late].max() < 1.2 * legal.predicted.min()


def test_history_orders_rows_by_their_first_trial() -> None:
    history = History(5)
    for row, number in [(4, 2), (1, 0), (3, 1), (1, 7)]:
        history.ask(row, number)
    history.tell(3, fine(3))
    assert history.rows == [1, 3, 4]
    assert history.told == [(3, fine(3))]
    assert (len(history), history.finished) == (3, 1)
    assert history.first(2).rows == [1, 3]
    assert history.untried.tolist() == [True, False, True, False, False]


def test_when_others_hold_what_is_left_one_of_theirs_is_repeated() -> None:
    legal = legal_table(0b111)
    history = History(3)
    history.ask(0, 0)
    history.tell(0, fine(0))
    for number, row in enumerate((1, 2), start=1):
        history.ask(row, number)
    assert Proposals(STRATEGIES[Strategy.MODEL](legal, seed=0, budget=3)).next(history) == 1


def test_tpe_learns_from_the_latest_and_the_fastest() -> None:
    told = [(row, Outcome(Status.CORRECT, float(1 + row * 7 % 5003))) for row in range(5000)]
    told[11] = (11, Outcome(Status.RUNTIME))
    assert _learnt(told[:1999]) == told[:1999]
    learnt = _learnt(told)
    assert learnt[-1000:] == told[4000:]
    early = learnt[:-1000]
    assert len(early) == 100
    slowest = max(o.value for _, o in early if o.value is not None)
    left = [o.value for row, o in told[:4000] if (row, o) not in early]
    assert slowest <= min(t for t in left if t is not None)
    # Between two thousands it only grows, so that what was read before need not be read again.
    assert _learnt(told[:4321]) == _learnt(told[:4320]) + told[4320:4321]
