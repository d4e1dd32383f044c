"""Distinct rows of columns, against a dictionary of tuples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.distinct import Distinct, distinct_rows
from tiles.kernels import ConfigTable
from tiles.kernels.gemm import GemmConfig, TritonGemm

#: Values of a column: truth values, few, many, and too far apart for a table.
TOPS = (2, 9, 300, 70_000, 2**40)


def check(columns: list[np.ndarray]) -> None:
    rows, inverse = distinct_rows(*columns)
    tuples = list(zip(*(c.tolist() for c in columns), strict=True))
    # A handful stand for themselves.
    assert len(rows) == (len(set(tuples)) if len(tuples) > 8 else len(tuples))
    assert [tuples[row] for row in rows[inverse].tolist()] == tuples


@given(
    seed=st.integers(0, 2**32),
    tops=st.lists(st.sampled_from(TOPS), min_size=1, max_size=6),
    count=st.integers(1, 400),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_equals_a_dictionary(seed: int, tops: list[int], count: int) -> None:
    random = np.random.default_rng(seed)
    columns = [random.integers(0, top, count) for top in tops]
    # Few of the values at a time, so that rows repeat.
    check([c[random.integers(0, min(count, 5), count)] for c in columns])
    check(columns)


def test_truth_values_are_columns_too() -> None:
    flags = np.array([True, False, True, True] * 3)
    check([flags])
    check([flags, ~flags, np.array([5, 5, 5, 70_000] * 3)])


@pytest.mark.parametrize("names", [("block_m",), ("block_m", "tma", "num_stages")])
def test_a_table_spreads_its_distinct_rows(names: tuple[str, ...]) -> None:
    axes = {"block_m": (16, 256), "tma": (False, True), "num_stages": (2, 3, 4)}
    others = dict.fromkeys(("block_n", "block_k", "group_m", "num_warps"), (1, 8))
    table = ConfigTable.product(GemmConfig, persistent=(False,), **axes, **others)
    few = Distinct.of(table, *names)
    assert len(few.table) == np.prod([len(axes[name]) for name in names])
    for name in names:
        np.testing.assert_array_equal(few.spread(few.table[name]), table[name])
    assert few.table.config_type is TritonGemm.config_type
