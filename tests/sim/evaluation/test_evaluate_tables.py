"""Predictors over splits: who sees what, and how scores are put together."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from measured_cases import FACTS, H200, gemm_table, hopper_table, measured

import sim
from sim.evaluation import Kind, Predicted, Split, evaluate, score
from sim.evaluation.aims import AIMS, Regime, reached
from sim.evaluation.pace import predictions_per_second
from sim.evaluation.ranks import spearman
from sim.evaluation.residuals import by_binding, by_instruction, slopes
from sim.evaluation.score import MIN_ROWS, Score
from sim.measured import MeasuredTable

LARGE = gemm_table(block_m=[64, 128], block_n=[64, 128, 256], num_stages=[3, 4, 5])


class Spy:
    """Answers with the mean of what it was fitted with, and remembers what it was shown."""

    name = "spy"

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.trained: list[list[str]] = []
        self.asked: list[MeasuredTable] = []
        self._mean = 1.0

    def fit(self, train: Sequence[MeasuredTable], gpu: sim.Gpu) -> None:
        self.trained.append([str(one.problem) for one in train])
        self._mean = float(np.mean([one.time_us.mean() for one in train]))

    def predict(self, table: MeasuredTable, gpu: sim.Gpu) -> Predicted | None:
        self.asked.append(table)
        return Predicted(time_us=np.full(len(table), self._mean))


def tables() -> list[MeasuredTable]:
    return [
        measured("gemm:64x4096x4096:bf16:bf16", [10.0] * 4),
        measured("gemm:64x4096x4096:e4m3-row:bf16", [20.0] * 4),
        measured("gemm:4096x4096x4096:e4m3-row:bf16", [40.0] * 4),
        measured("gemm:64x4096x4096:int8-row:bf16", [90.0] * 4, in_view=True),
    ]


@pytest.mark.parametrize("kind", [Kind.FORMULA, Kind.ORDER, Kind.FITTED])
def test_whoever_is_judged_sees_no_time(kind: Kind) -> None:
    spy = Spy(kind)
    evaluate(tables(), H200, [spy], list(Split))
    assert spy.asked
    for one in spy.asked:
        assert set(one.time_us) == {1.0}
        assert np.isnan(one.iqr_us).all()
        assert one.clock_mhz is one.power_w is None


def test_a_reference_sees_the_times() -> None:
    spy = Spy(Kind.REFERENCE)
    evaluate(tables(), H200, [spy], [])
    assert [one.time_us[0] for one in spy.asked] == [10.0, 20.0, 40.0]


def test_what_was_in_view_is_never_asked() -> None:
    spy = Spy(Kind.FITTED)
    evaluate(tables(), H200, [spy], list(Split))
    assert not any("int8-row" in str(one.problem) for one in spy.asked)
    assert any("int8-row" in text for one in spy.trained for text in one)


def test_scores_join_all_folds_of_a_split() -> None:
    (row,), skipped = evaluate(tables(), H200, [Spy(Kind.FITTED)], [Split.FORMAT, Split.TEMPLATE])
    # bf16 is told the mean of 20, 40 and 90, e4m3-row that of 10 and 90.
    errors = [50 / 10 - 1, 50 / 20 - 1, 50 / 40 - 1]
    assert row.score.mape == pytest.approx(np.mean(errors))
    assert [one.split for one in skipped] == [Split.TEMPLATE]


def test_nothing_to_judge_by_is_an_error() -> None:
    with pytest.raises(ValueError, match="every table was in view"):
        evaluate([measured(in_view=True)], H200, [Spy(Kind.FORMULA)], [])


def test_orders_are_never_taken_for_times() -> None:
    table = measured(times=np.arange(1.0, 19.0), table=LARGE)
    told = Predicted(time_us=np.arange(1.0, 19.0) * 1e6)
    ranked = score([table], [told], Kind.ORDER)
    assert (ranked.mape, ranked.speedup_error) == (None, None)
    assert (ranked.spearman, ranked.top1) == (pytest.approx(1), pytest.approx(1))
    assert score([table], [told], Kind.FORMULA).mape == pytest.approx(1e6 - 1)


def test_small_tables_count_for_times_alone() -> None:
    small, large = measured(), measured(times=np.arange(1.0, 19.0), table=LARGE)
    assert len(small) < MIN_ROWS <= len(large)
    told = [Predicted(time_us=-small.time_us + 500), Predicted(time_us=large.time_us)]
    found = score([small, large], told, Kind.FORMULA)
    assert (found.tables, found.rows, found.spearman) == (2, 22, pytest.approx(1))
    assert score([small], told[:1], Kind.FORMULA).spearman is None


def test_many_studies_are_told_by_their_middle_a_tenth_and_the_worst() -> None:
    """Eleven studies of 18 rows: of the n-th the first n are told in the opposite order."""
    times = np.arange(1.0, 19.0)
    studies = [measured(times=times, table=LARGE) for _ in range(11)]
    told, shares = [], []
    for count in range(11):
        wrong = times.copy()
        wrong[: count + 1] = wrong[: count + 1][::-1]
        told.append(Predicted(time_us=wrong))
        shares.append(1.0 / (count + 1))
    found = score(studies, told, Kind.FORMULA)
    assert found.top1 == pytest.approx(np.exp(np.log(shares).mean()))
    assert found.top1_worst == pytest.approx(1 / 11)
    orders = [spearman(one.time_us, times) for one in told]
    assert found.spearman == pytest.approx(np.median(orders))
    assert found.spearman_p10 == pytest.approx(np.percentile(orders, 10))
    assert found.spearman_p10 < found.spearman


def test_a_table_without_an_answer_is_counted() -> None:
    found = score([measured(), measured()], [None, Predicted(time_us=np.ones(4))], Kind.FORMULA)
    assert (found.tables, found.of_tables, found.rows) == (1, 2, 4)
    assert score([measured()], [None], Kind.FORMULA) == Score(tables=0, of_tables=1, rows=0)


def test_coverage_needs_an_interval_for_every_table() -> None:
    table = measured()
    bounded = Predicted(time_us=table.time_us, low_us=table.time_us / 2, high_us=table.time_us * 2)
    found = score([table, table], [bounded, bounded], Kind.FORMULA)
    assert (found.coverage, found.width) == (1.0, pytest.approx(4.0))
    assert found.coverage_gap == pytest.approx(0.1)
    plain = Predicted(time_us=table.time_us)
    assert score([table, table], [bounded, plain], Kind.FORMULA).coverage is None


def test_scores_read_back() -> None:
    found = score([measured()], [Predicted(time_us=np.arange(1.0, 5.0))], Kind.FORMULA)
    assert Score.from_dict(found.to_dict()).to_dict() == found.to_dict()


def test_aims_stand_beside_what_is_reached() -> None:
    class Own(Spy):
        name = "cost model"

    rows, _ = evaluate(tables(), H200, [Own(Kind.FORMULA)], [])
    found = {one.aim.quantity: one for one in reached(rows, {Regime.NONE: {"pace": 3.0}})}
    assert len(found) == len(AIMS)
    error = found["MAPE, format seen"]
    assert error.values == (pytest.approx(np.mean([0.9, 0.95, 0.975])), None, None)
    assert [error.met(regime) for regime in Regime] == [False, None, None]
    assert found["million predictions a second"].met(Regime.NONE) is True
    assert found["memory-bound kernels, MAPE"].values == (None, None, None)


def test_a_pace_is_counted_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    took_s = iter([0.5, 0.02, 0.3])
    now_s = [7.0]

    class Slow(Spy):
        def predict(self, table: MeasuredTable, gpu: sim.Gpu) -> Predicted | None:
            now_s[0] += next(took_s)
            return super().predict(table, gpu)

    # A clock that nothing else moves.
    clock = SimpleNamespace(perf_counter=lambda: now_s[0])
    monkeypatch.setattr("sim.evaluation.pace.time", clock)
    pace = predictions_per_second(Slow(Kind.FORMULA), measured(), H200)
    assert pace == pytest.approx(20_000 / 0.02)


def hopper_cases() -> list[MeasuredTable]:
    """Times that the model tells, but 20 % longer for every halving of the stages."""
    rows = hopper_table(stages=[2, 4, 8], block_n=[64, 128, 256], group_m=[1, 2, 4])
    cases = []
    for m in (1024, 2048, 4096, 8192):
        one = measured(f"gemm:{m}x4096x4096:e4m3-row:bf16", table=rows, family="hopper_gemm")
        priced = sim.price(one.problem, one.kernel, rows, H200)
        times = priced.time_us * (m / 1000) * 1.2 ** np.log2(8 / rows["stages"])
        cases.append(measured(str(one.problem), times, table=rows, family="hopper_gemm"))
    return cases


def test_slopes_find_the_field_that_is_priced_wrongly() -> None:
    cases = hopper_cases()
    priced = [sim.price(one.problem, one.kernel, one.table, H200) for one in cases]
    first, *others = slopes(cases, priced)
    assert (first.kernel, first.quantity) == ("hopper_gemm", "stages")
    assert first.percent == pytest.approx(100 * (1 / 1.2 - 1))
    assert first.stderr == pytest.approx(0, abs=1e-9)
    assert first.explained == pytest.approx(1)
    assert [one.percent for one in others] == pytest.approx([0, 0], abs=1e-9)
    assert slopes(cases[:2], priced[:2]) == []


def test_errors_by_binding_cover_every_row() -> None:
    cases = hopper_cases()
    priced = [sim.price(one.problem, one.kernel, one.table, H200) for one in cases]
    found = by_binding(cases, priced)
    assert sum(one.rows for one in found) == sum(map(len, cases))
    whole = [np.log(p.time_us / t.time_us).sum() for p, t in zip(priced, cases, strict=True)]
    assert sum(one.rows * np.log1p(one.bias) for one in found) == pytest.approx(sum(whole))


def test_errors_by_instruction_are_of_what_the_compiler_chose() -> None:
    facts = {0: FACTS, 1: replace(FACTS, mma="mma"), 2: replace(FACTS, mma="")}
    table = measured("gemm:4096x4096x4096:e4m3-row:bf16", facts=facts)
    priced = sim.price(table.problem, table.kernel, table.table, H200, table.facts)
    table = replace(table, time_us=priced.time_us / np.array([2.0, 0.5, 1.0, 1.0]))
    found = {one.group: one for one in by_instruction([table], [priced])}
    assert {name: (one.rows, round(one.bias, 9)) for name, one in found.items()} == {
        "e4m3-row wgmma": (1, 1.0),
        "e4m3-row mma": (1, -0.5),
    }
    assert [found[f"e4m3-row {name}"].mape for name in ("wgmma", "mma")] == [1.0, 0.5]
