"""Chosen M keys: as few as the brute force finds, by every reader's rule of the nearest key."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tuning.row_keys import KeyChoice, Lookup, choose_keys, served_by
from workbench.emission.package_files._lookup import nearest

F64 = NDArray[np.float64]
#: Rows, times, where a configuration may be a key, and where it has an anchor.
Instance = tuple[list[int], F64, NDArray[np.bool_], NDArray[np.bool_]]


def _losses(rows: list[int], times: F64, keys: dict[int, int], lookup: Lookup) -> list[float]:
    """Loss of each row when a reader looks it up among the keys, one by one."""
    found = []
    for place, m in enumerate(rows):
        config = keys[served_by(m, sorted(keys), lookup)]
        found.append(float(times[config, place] / times[:, place].min() - 1.0))
    return found


def _anchored(
    rows: list[int], keys: dict[int, int], anchors: NDArray[np.bool_], lookup: Lookup
) -> bool:
    """Whether every key serves a row where its configuration has an anchor."""
    at = {
        served_by(m, sorted(keys), lookup)
        for place, m in enumerate(rows)
        if anchors[keys[served_by(m, sorted(keys), lookup)], place]
    }
    return at == set(keys)


def _brute_force(
    rows: list[int],
    times: F64,
    loss: float,
    lookup: Lookup,
    allowed: NDArray[np.bool_],
    anchors: NDArray[np.bool_],
) -> tuple[int, float] | None:
    """Fewest keys and then least loss, by trying every set of keys with every configuration."""
    for size in range(1, len(rows) + 1):
        best = min(
            (
                max(_losses(rows, times, dict(zip(keys, configs, strict=True)), lookup))
                for keys in itertools.combinations(rows, size)
                for configs in itertools.product(range(len(times)), repeat=size)
                if all(allowed[c, rows.index(m)] for m, c in zip(keys, configs, strict=True))
                and _anchored(rows, dict(zip(keys, configs, strict=True)), anchors, lookup)
            ),
            default=np.inf,
        )
        if best <= loss:
            return size, best
    return None


@st.composite
def _instances(draw: st.DrawFn) -> Instance:
    rows = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=5)))
    configs = draw(st.integers(1, 3))
    cell = st.sampled_from([1.0, 1.01, 1.02, 1.05, 1.2, 2.0, np.inf])
    times = np.array([[draw(cell) for _ in rows] for _ in range(configs)])
    times[0] = np.where(np.isfinite(times.min(axis=0)), times[0], 1.5)  # some configuration runs
    may, anchors = (
        np.array([[draw(st.booleans()) for _ in rows] for _ in range(configs)])
        | draw(st.booleans())
        for _ in range(2)
    )
    return rows, times, may, anchors


LOSSES = st.sampled_from([0.0, 0.02, 0.06, 0.3])
LOOKUPS = st.sampled_from(list(Lookup))


@settings(max_examples=40)
@given(instance=_instances(), loss=LOSSES, lookup=LOOKUPS)
def test_no_smaller_set_of_keys_stays_within_the_loss(
    instance: Instance, loss: float, lookup: Lookup
) -> None:
    _is_exact(instance, loss, lookup)


@pytest.mark.slow
@settings(max_examples=600)
@given(instance=_instances(), loss=LOSSES, lookup=LOOKUPS)
def test_nor_does_one_of_many_more_instances(
    instance: Instance, loss: float, lookup: Lookup
) -> None:
    _is_exact(instance, loss, lookup)


def _is_exact(instance: Instance, loss: float, lookup: Lookup) -> None:
    rows, times, may, anchors = instance
    expected = _brute_force(rows, times, loss, lookup, may & np.isfinite(times), anchors)
    if expected is None:
        with pytest.raises(ValueError, match="no keys keep the loss"):
            choose_keys(rows, times, loss=loss, lookup=lookup, allowed=may, anchors=anchors)
        return
    found = choose_keys(rows, times, loss=loss, lookup=lookup, allowed=may, anchors=anchors)
    assert (len(found.keys), found.worst_loss) == expected
    _is_what_readers_see(found, rows, times)


def _is_what_readers_see(found: KeyChoice, rows: list[int], times: F64) -> None:
    keys = {key.m: key.config for key in found.keys}
    losses = _losses(rows, times, keys, found.lookup)
    assert max(losses) == found.worst_loss == losses[rows.index(found.worst_m)]
    for key in found.keys:
        served = [m for m in rows if served_by(m, sorted(keys), found.lookup) == key.m]
        assert (served[0], served[-1]) == (key.first, key.last)
        assert max(losses[rows.index(m)] for m in served) == key.loss


@settings(max_examples=40)
@given(
    keys=st.sets(st.integers(1, 300), min_size=1, max_size=6),
    m=st.integers(1, 300),
)
def test_the_boundaries_are_those_of_the_readers(keys: set[int], m: int) -> None:
    ascending = sorted(keys)
    # Packages look up by the first rule, loaders of M-keyed files by the second.
    assert served_by(m, ascending, Lookup.LOG) == nearest(m, ascending)
    assert served_by(m, ascending, Lookup.LINEAR) == min(ascending, key=lambda key: abs(key - m))


def test_a_tie_goes_to_the_smaller_key() -> None:
    assert served_by(12, [8, 16], Lookup.LINEAR) == 8
    assert served_by(8, [4, 16], Lookup.LOG) == 4


def test_linear_and_log_lookup_need_other_keys() -> None:
    # One configuration is best below 100, the other from there on.
    rows = [1, 16, 64, 99, 100, 256, 1024]
    times = np.array([[1, 1, 1, 1, 2, 2, 2], [2, 2, 2, 2, 1, 1, 1]], dtype=float)
    for lookup in Lookup:
        found = choose_keys(rows, times, loss=0.02, lookup=lookup)
        assert [(key.first, key.last) for key in found.keys] == [(1, 99), (100, 1024)]
        assert found.worst_loss == 0.0
    few = np.zeros_like(times, dtype=bool)
    few[:, [0, 2, 5, 6]] = True  # keys at 1, 64, 256 and 1024 alone
    # 64 and 256 meet at 128 in log space: 100 is lost; in linear space at 160.
    for lookup in Lookup:
        with pytest.raises(
            ValueError, match=r"within 2\.0%: 100\.0% at M \d+ is the least: tune that M too"
        ):
            choose_keys(rows, times, loss=0.02, lookup=lookup, allowed=few)


def test_of_as_few_keys_those_with_the_least_loss() -> None:
    rows = [1, 2, 4, 64]
    times = np.array([[1.0, 1.05, 1.05, 9.0], [1.01, 1.0, 1.0, 9.0], [9.0, 9.0, 9.0, 1.0]])
    # The first configuration may stand at 1 alone, the second at 2, the third at 64.
    allowed = np.zeros_like(times, dtype=bool)
    allowed[[0, 1, 2], [0, 1, 3]] = True
    found = choose_keys(rows, times, loss=0.1, lookup=Lookup.LOG, allowed=allowed)
    assert [(key.m, key.config) for key in found.keys] == [(2, 1), (64, 2)]
    assert (found.worst_loss, found.worst_m) == (pytest.approx(0.01), 1)


def test_more_loss_needs_no_more_keys() -> None:
    rng = np.random.default_rng(7)
    rows = [2**i for i in range(12)]
    times = 1.0 + rng.random((6, len(rows)))
    sizes = [
        len(choose_keys(rows, times, loss=loss, lookup=Lookup.LOG).keys)
        for loss in (0.0, 0.02, 0.1, 0.5, 1.0)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] == 1


def test_refuses_what_is_no_table() -> None:
    with pytest.raises(ValueError, match="different M, ascending"):
        choose_keys([4, 2], np.ones((1, 2)), loss=0.02, lookup=Lookup.LOG)
    with pytest.raises(ValueError, match="give 1 to 512 different M"):
        choose_keys([], np.ones((1, 0)), loss=0.02, lookup=Lookup.LOG)
    with pytest.raises(ValueError, match=r"give \(configurations, 2 rows\)"):
        choose_keys([2, 4], np.ones((1, 3)), loss=0.02, lookup=Lookup.LOG)
    with pytest.raises(ValueError, match="positive, and finite for one"):
        choose_keys([2, 4], np.array([[1.0, np.inf]]), loss=0.02, lookup=Lookup.LOG)
