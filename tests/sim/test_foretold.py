"""Predictions kept beside measured tables, and a frozen model judged by them."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sim
from sim.evaluation.frozen import MEMORY, PRODUCTS, frozen_parts, modes
from sim.foretold import Foretold, read_foretold, write_foretold
from sim.measured import MeasuredTable
from sim.measured_file import MEASUREMENTS_FILE, read_measured
from tiles.kernels import ConfigTable, Kernel, kernel
from tiles.problems import Problem, parse_problem

H200 = sim.load_gpu("h200")
FIRST_LOOK = Path(__file__).parents[2] / "data" / "h200" / "first_look" / MEASUREMENTS_FILE


@pytest.fixture(scope="module")
def tables() -> list[MeasuredTable]:
    return [one.take(np.arange(6)) for one in read_measured(FIRST_LOOK)[:3]]


def told(table: MeasuredTable, factor: float) -> Foretold:
    return Foretold(
        time_us=table.time_us * factor,
        low_us=table.time_us * factor * 0.8,
        high_us=table.time_us * factor * 1.25,
    )


def test_what_was_foretold_is_read_back(tmp_path: Path, tables: list[MeasuredTable]) -> None:
    path = tmp_path / "predictions.parquet"
    kept = [told(one, 1.0 + index / 10) for index, one in enumerate(tables)]
    write_foretold(path, kept)
    for one, other in zip(kept, read_foretold(path, tables), strict=True):
        for name in ("time_us", "low_us", "high_us"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()


def test_a_pipe_is_not_replaced(tmp_path: Path, tables: list[MeasuredTable]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe: is not a regular file: choose another output"):
        write_foretold(tmp_path / "pipe", [told(one, 1.0) for one in tables])
    assert (tmp_path / "pipe").is_fifo()


def test_a_pipe_is_not_waited_for(tmp_path: Path, tables: list[MeasuredTable]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe: cannot be read as predictions: not a regular"):
        read_foretold(tmp_path / "pipe", tables)


def test_predictions_of_other_rows_and_damaged_files_are_refused(
    tmp_path: Path, tables: list[MeasuredTable]
) -> None:
    path = tmp_path / "predictions.parquet"
    with pytest.raises(ValueError, match="no such file"):
        read_foretold(path, tables)
    write_foretold(path, [told(one, 1.0) for one in tables[:2]])
    with pytest.raises(ValueError, match="its 12 rows are not those of 18 measured ones"):
        read_foretold(path, tables)
    with pytest.raises(ValueError, match=r"its schema is 'tile-workbench/measurements/1', this"):
        read_foretold(FIRST_LOOK, tables)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read as predictions"):
        read_foretold(path, tables[:2])
    with pytest.raises(ValueError, match="not positive and finite"):
        Foretold(time_us=np.array([np.nan]), low_us=np.ones(1), high_us=np.ones(1))


def test_a_row_is_named_by_the_first_mode_that_it_takes() -> None:
    family = kernel("triton_gemm")
    first = family.config_type.from_dict(
        {
            **dict.fromkeys(("tma", "persistent", "stream_k", "overlap", "specialize"), False),
            **{"block_m": 64, "block_n": 128, "block_k": 64, "group_m": 1, "num_warps": 4},
            **{"num_stages": 3, "split_k": 1, "subtiles": 0},
        }
    )
    rows = [
        first,
        replace(first, subtiles=4),
        replace(first, split_k=2),
        replace(first, overlap=True, subtiles=4),
        replace(first, stream_k=True, persistent=True, tma=True),
    ]
    found = modes(ConfigTable.of(rows)).tolist()
    assert found == ["plain", "subtiles", "split_k", "overlap", "stream_k"]


def test_both_models_are_judged_by_shapes_set_on_and_held_out(
    tables: list[MeasuredTable],
) -> None:
    marked = [replace(one, in_view=index == 0) for index, one in enumerate(tables)]
    parts = frozen_parts(marked, [told(one, 1.3) for one in marked], H200)
    found = {(one.family, one.shapes, one.model): one for one in parts if not one.mode}
    frozen = found[PRODUCTS, "all", "frozen"]
    assert (frozen.rows, frozen.tables) == (18, 3)
    assert frozen.mape == pytest.approx(0.3)
    assert frozen.bias == pytest.approx(0.3)
    assert frozen.covered == 0.0  # 1.3 x 0.8 is above 1
    assert frozen.spearman == frozen.top1 == pytest.approx(1.0)  # the order is the measured one
    assert frozen.predicted_us == pytest.approx(1.3 * frozen.measured_us)
    assert found[PRODUCTS, "set on", "now"].rows == 6
    assert found[PRODUCTS, "held out", "now"].rows == 12
    assert found[PRODUCTS, "all", "now"].mape < 0.2
    assert not any(one.family == MEMORY for one in parts)


def test_the_model_is_asked_without_the_times(tables: list[MeasuredTable]) -> None:
    slower = [replace(one, time_us=one.time_us * 7) for one in tables]
    kept = [told(one, 1.0) for one in tables]
    now = [
        [one.predicted_us for one in frozen_parts(which, kept, H200) if one.model == "now"]
        for which in (tables, slower)
    ]
    assert now[0] == now[1]


def test_parts_tell_modes_memory_and_the_worst_choice_apart() -> None:
    """Three studies: of a product, plain and with shared K, and of a pass over memory."""
    products, passes = kernel("triton_gemm"), kernel("triton_transpose")
    problem, memory = (
        parse_problem(text) for text in ("gemm:256x1024x4096:bf16:bf16", "transpose:512x512:int8")
    )
    legal = products.legal_space(problem, H200.limits).accepted
    plain = legal.take(np.flatnonzero(modes(legal) == "plain")[:4])
    shared = legal.take(np.flatnonzero(modes(legal) == "split_k")[:1])
    mixed = ConfigTable.of([*(plain.config(row) for row in range(4)), shared.config(0)])
    streams = passes.legal_space(memory, H200.limits).accepted.take(np.arange(2))

    def study(
        one: Problem, family: Kernel, table: ConfigTable, times: list[float]
    ) -> MeasuredTable:
        return MeasuredTable(
            problem=one,
            kernel=family,
            gpu="h200",
            table=table,
            time_us=np.array(times),
            iqr_us=np.zeros(len(times)),
            whole_space=False,
        )

    tables = [
        study(problem, products, mixed, [10.0, 20.0, 40.0, 80.0, 5.0]),
        study(problem, products, plain.take(np.arange(2)), [10.0, 20.0]),
        study(memory, passes, streams, [10.0, 30.0]),
    ]
    told_us = [[40.0, 30.0, 20.0, 10.0, 5.0], [10.0, 20.0], [20.0, 10.0]]
    kept = [
        Foretold(time_us=np.array(one), low_us=np.array(one), high_us=2 * np.array(one))
        for one in told_us
    ]
    parts = frozen_parts(tables, kept, H200)
    found = {
        (one.family, one.mode): one for one in parts if (one.shapes, one.model) == ("all", "frozen")
    }
    assert found["triton_gemm", ""].rows == found[PRODUCTS, ""].rows == 7
    assert (found["triton_gemm", "plain"].rows, found["triton_gemm", "split_k"].rows) == (6, 1)
    assert found[MEMORY, ""].rows == found["triton_transpose", ""].rows == 2
    # Of four plain rows in reverse 80 us are chosen where 10 were the best; of two the best.
    by_mode = found["triton_gemm", "plain"]
    assert by_mode.top1_worst == pytest.approx(10 / 80)
    assert by_mode.top1 == pytest.approx((10 / 80) ** 0.5)
    assert by_mode.spearman == pytest.approx(-1.0)  # two rows have no order to speak of
    # 40 in 20..40, 10 in 10..20 and 20 in 20..40 lie on the ends of their intervals.
    assert by_mode.covered == pytest.approx(3 / 6)
    assert found["triton_gemm", "split_k"].covered == 1.0
    assert found[MEMORY, ""].top1 == pytest.approx(1 / 3)
